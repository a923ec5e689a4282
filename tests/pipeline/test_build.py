"""From a hub to a served model: the default model, brought back to the hub's form, through every stage for real."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import openai
import pytest
from gguf import GGUFReader, GGUFWriter

from appliance.errors import ConfigError
from appliance.models.report import Silent
from appliance.models.store import StoredModel
from appliance.models.subprocesses import run_llama_job
from tests.pipeline.hub import LoopbackHub, Repo
from tests.pipeline.workplace import NAME, REPO, Workplace
from tests.server import ROOT, start_server

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]


def test_what_was_built_is_served(built: Workplace) -> None:
    with start_server(**built.settings) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == [NAME]
        answer = client.completions.create(model=NAME, prompt="1, 2, 3, 4, 5, 6, 7,", max_tokens=8, temperature=0)
        assert answer.choices[0].text == " 8, 9, 1"
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        chat = client.chat.completions.create(model=NAME, messages=messages, max_tokens=16)  # type: ignore[arg-type]
        assert chat.choices[0].message.content


def test_the_lock_says_how_it_was_made_and_what_it_cost(built: Workplace, stored: StoredModel) -> None:
    _, version = built.lock.resolve(NAME)
    assert version.gguf is not None
    assert version.gguf.n_params == stored.record.header.n_params
    assert version.gguf.n_ctx_train == 8192
    assert version.conversion is not None
    assert (version.conversion.converter_version, version.conversion.outtype) == ("0.3.36", "f16")
    assert version.quality is not None
    assert version.quality.perplexity > version.quality.perplexity_unquantized > 1
    assert 0.2 < version.quality.kl_divergence < 0.4
    assert 0.5 < version.quality.top1_agreement < 0.8


def test_the_figures_of_quality_are_those_known(built: Workplace) -> None:
    """Measured with torch in single precision, and by evaluating the same tokens in one window (models' research)."""
    text = built.folder / "license.txt"
    text.write_text((ROOT / "LICENSE").read_text().removeprefix("\n"))
    unquantized, quantized = built.made()[:2]
    request = {"unquantized": str(unquantized), "text": str(text), "n_tokens": 1024, "n_threads": 1, "n_gpu_layers": 0}
    figures = run_llama_job("measure", {**request, "quantized": str(quantized)}, "", Silent())
    assert figures["perplexity_unquantized"] == pytest.approx(14.203, rel=0.002)
    assert figures["perplexity"] == pytest.approx(17.499, rel=0.01)
    assert figures["kl_divergence"] == pytest.approx(0.344, rel=0.02)
    assert figures["top1_agreement"] == pytest.approx(0.714, abs=0.03)
    itself = run_llama_job("measure", {**request, "quantized": str(unquantized), "n_tokens": 128}, "", Silent())
    assert (itself["kl_divergence"], itself["top1_agreement"]) == (0, 1)


def quantized(
    source: Path,
    target: Path,
    file_type: str,
    n_threads: int = 1,
    *,
    tensor_types: dict[str, str] | None = None,
    imatrix: Path | None = None,
) -> bytes:
    request = {
        "source": str(source),
        "target": str(target),
        "file_type": file_type,
        "tensor_types": tensor_types or {},
        "imatrix": None if imatrix is None else str(imatrix),
        "allow_requantize": False,
        "n_threads": n_threads,
    }
    run_llama_job("quantize", request, "", Silent())
    return target.read_bytes()


def test_q4_1_of_it_has_the_tensors_of_the_file_that_it_came_from(
    built: Workplace, stored: StoredModel, tmp_path: Path
) -> None:
    quantized(built.made()[0], tmp_path / "q4_1.gguf", "Q4_1", 1)
    ours = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "q4_1.gguf").tensors}
    theirs = GGUFReader(stored.path).tensors
    equal = [
        t.name
        for t in theirs
        if t.tensor_type == ours[t.name].tensor_type and np.array_equal(t.data, ours[t.name].data)
    ]
    assert len(equal) == len(theirs) == len(ours) == 272


def test_quantization_gives_the_same_bytes_for_any_number_of_threads(built: Workplace, tmp_path: Path) -> None:
    one, two = (quantized(built.made()[0], tmp_path / f"{n}.gguf", "Q4_0", n) for n in (1, 2))
    assert one == two == next(iter(built.published().values()))


def test_rebuilding_proves_the_bytes_and_damage_is_found(built: Workplace, tmp_path: Path) -> None:
    assert built.run("verify", "--rebuild").endswith(": ok\n")
    (path,) = built.models.glob("*/*/model.gguf")
    stamp = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(content[-1:])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    try:
        assert built.run("verify").endswith(": ok\n"), "it looks untouched"
        assert "failed:" in built.run("verify", "--deep", status=1)
    finally:
        content[-1] ^= 1
        path.write_bytes(content)
    assert built.run("verify").endswith(": ok\n")


def test_an_upgrade_is_made_like_the_one_before_and_can_be_taken_back(
    built: Workplace, real_hub: LoopbackHub, tmp_path: Path
) -> None:
    place = built.copied(tmp_path / "upgraded")
    repo = real_hub.repos[REPO]
    kept = repo.files["generation_config.json"]
    repo.files["generation_config.json"] = b'{"temperature": 0.2}'
    try:
        said = place.run("upgrade", NAME)
    finally:
        repo.files["generation_config.json"] = kept
    assert re.search(r"in use until now, and .*: perplexity 35\.\d+ and 35\.\d+", said)
    newest, older = place.lock.entry(NAME).versions
    assert older == built.lock.entry(NAME).versions[0]
    assert newest.defaults == {"temperature": 0.2}
    assert newest.short != older.short, "the converter writes them into the file"
    assert current(place) == newest.short
    place.run("use", f"{NAME}@{older.short}")
    assert current(place) == older.short
    place.run("use", f"{NAME}@previous")
    assert current(place) == newest.short
    place.run("rm", f"{NAME}@{newest.short}", "--yes")
    assert current(place) == older.short
    assert place.published() == built.published()
    assert place.lock == built.lock


def current(place: Workplace) -> str:
    rows = json.loads(place.run("ls", "--json"))
    (version,) = (row["version"] for row in rows if row["current"])
    return str(version)


def test_a_gate_keeps_what_lost_too_much_from_being_published(built: Workplace, tmp_path: Path) -> None:
    place = built.copied(tmp_path / "gated")
    place.run("rm", NAME, "--yes")
    place.run("add", REPO)
    assert "more than --max-kld 0.05" in place.run("build", NAME, "--max-kld", "0.05", status=1)
    assert "more than --max-ppl-increase 10.0%" in place.run("build", NAME, "--max-ppl-increase", "0.1", status=1)
    assert place.published() == {}
    place.run("build", NAME, "--max-kld", "0.5", "--max-ppl-increase", "0.5")
    assert place.published() == built.published()


def test_a_type_for_some_tensors_and_an_importance_matrix_change_what_is_made(built: Workplace, tmp_path: Path) -> None:
    source = built.made()[0]
    plain = next(iter(built.published().values()))
    finer = quantized(source, tmp_path / "finer.gguf", "Q4_0", tensor_types={r"attn_v\.weight": "Q8_0"})
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "finer.gguf").tensors}
    assert (types["blk.3.attn_v.weight"], types["blk.3.attn_q.weight"]) == ("Q8_0", "Q4_0")
    assert finer != plain
    matrix = importance_matrix(source, tmp_path / "imatrix.gguf")
    weighted, again = (quantized(source, tmp_path / f"w{n}.gguf", "Q4_0", imatrix=matrix) for n in range(2))
    assert weighted == again
    assert weighted != plain
    with pytest.raises(ConfigError, match="is no importance matrix"):
        quantized(source, tmp_path / "x.gguf", "Q4_0", imatrix=source)
    with pytest.raises(ConfigError, match="Q9 is no tensor type"):
        quantized(source, tmp_path / "x.gguf", "Q4_0", tensor_types={"attn_v": "Q9"})


def importance_matrix(model: Path, path: Path) -> Path:
    """As `llama-imatrix` writes it, with columns that matter by their number."""
    writer = GGUFWriter(path, "imatrix")
    for tensor in GGUFReader(model).tensors:
        if len(tensor.shape) == 2:
            sums = np.arange(1, int(tensor.shape[0]) + 1, dtype=np.float32)[None]
            writer.add_tensor(f"{tensor.name}.in_sum2", sums * 7)
            writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 7, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Program:
    """What runs when a pickled file that holds it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.trace),))


def as_torch_saves(pickled: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", data)
    return content.getvalue()


def test_a_program_in_pickled_weights_does_not_run_although_they_are_allowed(
    real_hub: LoopbackHub, tmp_path: Path
) -> None:
    trace = tmp_path / "it-ran"
    files = {path: data for path, data in real_hub.repos[REPO].files.items() if not path.endswith(".safetensors")}
    pickled = pickle.dumps({"w": Program(trace)}, protocol=2)
    real_hub.repos["org/Pickled"] = Repo({**files, "pytorch_model.bin": as_torch_saves(pickled)})
    place = Workplace(tmp_path / "place", real_hub)
    assert "or trust this one with --allow-pickle" in place.run("add", "org/Pickled", status=1)
    place.run("add", "org/Pickled", "--allow-pickle")
    said = place.run("build", "pickled", status=1)
    assert "converting Pickled to f16 failed: its pickled weights hold more than numbers" in said
    assert not trace.exists()
    pickle.loads(pickled)
    assert trace.exists(), "it would have run"


def test_ctrl_c_ends_it_at_once_and_what_was_done_is_kept(
    real_hub: LoopbackHub, built: Workplace, tmp_path: Path
) -> None:
    place = Workplace(tmp_path / "stopped", real_hub)
    place.run("add", REPO)
    process = place.start("build", NAME, stdout=subprocess.PIPE)
    folder = place.models / ".work" / "made"
    while not list(folder.glob("*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.endswith("stopped; what was done is kept, and the same command goes on from there\n")
    assert not list(folder.iterdir())
    assert len(list((place.models / ".work" / "sources").rglob("*.safetensors"))) == 1
