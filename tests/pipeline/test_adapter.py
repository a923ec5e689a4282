"""A LoRA adapter, trained here, through the pipeline: what it does is what torch says that it does."""

from __future__ import annotations

import ctypes
import hashlib
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from appliance.engine.llama.library import lib, start
from appliance.engine.llama.model import Model
from appliance.models.store import StoredModel
from scripts.llama_wheel import cache_dir
from tests.pipeline.hub import LoopbackHub, Repo
from tests.pipeline.repos import hub_format
from tests.pipeline.workplace import CONVERTER_PYTHON, NAME, REPO, Workplace
from tests.server import ROOT, start_server

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def adapter(stored: StoredModel, real_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """A prompt's tokens, and the log-probabilities of the next one by torch; the adapter is in the hub then."""
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    command = [
        CONVERTER_PYTHON,
        ROOT / "tests/pipeline/lora.py",
        hub_format(stored.path, cache_dir() / "tests"),
        folder,
    ]
    trained = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    repo = Repo({})
    repo.add_folder(folder)
    real_hub.repos["org/Harbour-LoRA"] = repo
    result: list[list[float]] = json.loads(trained.stdout)
    return result


def test_an_adapter_is_pinned_converted_and_does_what_torch_does(
    built: Workplace, adapter: list[list[float]], tmp_path: Path
) -> None:
    files = []
    for number in range(2):
        place = built.copied(tmp_path / f"adapted{number}")
        place.run("rm", NAME, "--yes")
        place.run("add", REPO, "--quant", "F16")
        place.run("add", "org/Harbour-LoRA", "--base", NAME)
        place.run("build", NAME)
        assert "is there already" in place.run("build", NAME)
        (version,) = place.lock.entry(NAME).versions
        (locked,) = version.adapters
        assert locked.gguf is not None
        (path,) = place.models.glob("*/*/adapters/*.gguf")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == locked.gguf.sha256
        files.append((path.read_bytes(), place.lock_path.read_text()))
    assert files[0] == files[1], "another folder, other bytes"
    assert str(tmp_path).encode() not in files[0][0]
    assert place.run("verify", "--deep").endswith(": ok\n")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "failed: " in place.run("verify", "--deep", status=1)
    path.write_bytes(content)
    tokens, by_torch = adapter
    (model,) = place.models.glob("*/*/model.gguf")
    ours = next_log_probs(model, path, [int(token) for token in tokens])
    assert np.abs(ours - by_torch)[np.array(by_torch) > -10].max() < 0.01
    without = next_log_probs(model, None, [int(token) for token in tokens])
    assert np.abs(without - by_torch).max() > 1, "it changes nothing"
    name = f"{NAME}:{locked.name}"
    assert f"{name}  LoRA adapter, scale 1" in place.run("ls")
    with start_server(APPLIANCE_N_CTX="512", **place.settings) as server:
        prompt = [int(token) for token in tokens]
        base_alone = served_log_probs(server.url, NAME, prompt)
        with ThreadPoolExecutor(4) as pool:  # both run, several times
            asked = [(name, pool.submit(served_log_probs, server.url, name, prompt)) for name in (name, NAME) * 4]
            answers = [(name, answer.result()) for name, answer in asked]
    ids = token_ids(model)
    for asked_name, found in answers:
        expected = by_torch if asked_name == name else without
        likely = {text: value for text, value in found.items() if value > -10}
        assert likely
        for text, value in likely.items():
            assert min(abs(expected[token] - value) for token in ids[text]) < 0.01, (asked_name, text)
        if asked_name == NAME:
            assert likely == pytest.approx({text: base_alone[text] for text in likely}, abs=0.01)


def served_log_probs(url: str, name: str, prompt: list[int]) -> dict[str, float]:
    """The 20 likeliest first tokens by their text."""
    body = {"model": name, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60, trust_env=False).json()
    assert answer["model"] == name
    found: dict[str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    assert len(found) == 20
    return found


def token_ids(model: Path) -> dict[str, list[int]]:
    """Which tokens have a text: several may."""
    found: dict[str, list[int]] = {}
    with Model(str(model), vocab_only=True) as vocabulary:
        for token in range(vocabulary.n_vocab):
            found.setdefault(vocabulary.token_name(token).decode("utf-8", "replace"), []).append(token)
    return found


def next_log_probs(model: Path, adapter: Path | None, tokens: list[int]) -> np.ndarray[Any, Any]:
    """Of the token behind ``tokens``, by llama.cpp's low-level API."""
    start()
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = 64
    params.n_threads = params.n_threads_batch = 1
    with Model(str(model)) as loaded:
        context = lib.llama_init_from_model(loaded.handle, params)
        if adapter is not None:
            lora = lib.llama_adapter_lora_init(loaded.handle, str(adapter).encode())
            assert lora
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(lora)
            assert lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0
        array = (lib.llama_token * len(tokens))(*tokens)
        assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) == 0
        logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (loaded.n_vocab,)).astype(np.float64)
        lib.llama_free(context)
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())
