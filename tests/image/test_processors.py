"""One image for every processor: ggml takes the best library for this one, and each lower one answers, too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.image.conftest import Built
from tests.image.engine import SITE_PACKAGES, Project, docker, project

# ggml's variants for x86-64 with the flags of /proc/cpuinfo that each wants, best first (ggml/src/CMakeLists.txt).
AVX2 = {"avx", "f16c", "fma", "bmi2", "avx2"}
AVX512 = {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
VARIANTS = {
    "sapphirerapids": AVX2 | AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"},
    "zen4": AVX2 | AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16"},
    "cooperlake": AVX2 | AVX512 | {"avx512_vnni", "avx512_bf16"},
    "icelake": AVX2 | AVX512 | {"avx512vbmi", "avx512_vnni"},
    "cascadelake": AVX2 | AVX512 | {"avx512_vnni"},
    "cannonlake": AVX2 | AVX512 | {"avx512vbmi"},
    "skylakex": AVX2 | AVX512,
    "alderlake": AVX2 | {"avx_vnni"},
    "haswell": AVX2,
    "piledriver": {"avx", "f16c", "fma", "fma4"},
    "ivybridge": {"avx", "f16c"},
    "sandybridge": {"avx"},
    "sse42": {"sse4_2"},
    "x64": set(),
}


def processor_flags() -> set[str]:
    match = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert match is not None
    return set(match[1].split())


def loaded_variants(running: Project) -> set[str]:
    """The CPU libraries that processes in the container have mapped."""
    maps = running.inside("sh", "-c", "cat /proc/[0-9]*/maps 2>/dev/null", status=None)
    return set(re.findall(r"libggml-cpu-(\w+)\.so", maps))


def runnable() -> list[str]:
    flags = processor_flags()
    return [name for name, wanted in VARIANTS.items() if wanted <= flags]


def test_the_image_has_every_variant(appliance_image: Built) -> None:
    said = docker("run", "--rm", "--entrypoint", "ls", appliance_image.image, f"{SITE_PACKAGES}/bin")
    assert set(re.findall(r"libggml-cpu-(\w+)\.so", said)) == set(VARIANTS)


def test_the_best_variant_for_this_processor_is_loaded(running: Project) -> None:
    running.ask("Hi")
    assert loaded_variants(running) == {runnable()[0]}


@pytest.mark.parametrize("variant", runnable()[1:])
def test_a_lower_variant_answers(appliance_image: Built, tmp_path: Path, variant: str) -> None:
    """It is the only one that is there."""
    folder = tmp_path / "bin"
    container = docker("create", appliance_image.image)
    try:
        folder.mkdir()
        docker("cp", f"{container}:{SITE_PACKAGES}/bin/libggml-cpu-{variant}.so", folder)
    finally:
        docker("rm", container)
    folder.chmod(0o755)
    mount = [f"{folder}:{SITE_PACKAGES}/bin:ro"]
    overlay = tmp_path / "variant.yaml"
    overlay.write_text(json.dumps({"services": {"appliance": {"volumes": mount}}}))
    with project(appliance_image.site, appliance_image.image, str(overlay)) as lower:
        lower.up()
        answer: httpx.Response = lower.ask("Count: 1, 2, 3,", max_tokens=4)
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] >= 1
        assert loaded_variants(lower) == {variant}
