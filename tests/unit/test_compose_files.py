"""compose.yaml, its overlays, .env.example, bake.hcl and the systemd unit, as far as that goes without Docker."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

import appliance
from appliance.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted((ROOT / "docker").glob("compose.*.yaml"))
COMPOSE_FILES = [ROOT / "compose.yaml", *OVERLAYS]
ENV_EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
# What the image decides, compose.yaml fills, or only appliance.toml can say.
NOT_IN_ENV = {
    *("host", "port", "state_dir", "models_dir", "image_models_dir", "models_lock", "converter_python"),
    *("published_address", "models"),
}
BASE_IMAGE = re.compile(r"debian:bookworm-slim@sha256:[0-9a-f]{64}")


def service(path: Path = ROOT / "compose.yaml", name: str = "appliance") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["services"][name]
    return found


def example_variables() -> dict[str, str]:
    """Every variable of .env.example, with the value that is shown."""
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", ENV_EXAMPLE, re.MULTILINE))


def interpolated(path: Path) -> dict[str, str]:
    """The variables that a compose file takes, with their defaults."""
    return dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", path.read_text()))


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
def test_it_holds_to_the_compose_specification(path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_that_may_be_set_is_in_the_example_with_its_description_and_default() -> None:
    shown = example_variables()
    for name, field in Settings.model_fields.items():
        variable = PREFIX + name.upper()
        if name in NOT_IN_ENV:
            assert variable not in shown
            continue
        assert f"# {field.description}\n#{variable}=" in ENV_EXAMPLE, variable
        default = field.default
        wanted = json.dumps(default) if isinstance(default, bool | list) else "" if default is None else str(default)
        assert shown[variable] == wanted, variable


def test_the_example_and_compose_name_the_same_settings_and_no_others() -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    in_example = {name for name in example_variables() if name.startswith(PREFIX)}
    in_compose = set(service()["environment"]) - {"APPLIANCE_PUBLISHED_ADDRESS"}
    assert in_example == in_compose
    assert in_example < settings


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
def test_every_variable_of_compose_is_in_the_example_with_its_default(path: Path) -> None:
    # Those whose default an overlay changes.
    changed = {
        "compose.cuda.yaml": {"IMAGE", "APPLIANCE_REQUIRE_GPU"},
        "compose.monitoring.yaml": {"APPLIANCE_ALLOWED_HOSTS"},
    }
    shown = example_variables()
    for name, default in interpolated(path).items():
        assert name in shown, name
        if name not in changed.get(path.name, ()):
            assert shown[name] == default, name


def test_one_setting_fills_the_mapping_and_what_the_server_believes_of_it() -> None:
    (mapping,) = service()["ports"]
    address = service()["environment"]["APPLIANCE_PUBLISHED_ADDRESS"]
    assert address == "${PUBLISH_ADDRESS:-127.0.0.1}"
    assert mapping == f"{address}:${{PUBLISH_PORT:-8080}}:8080"


def test_a_stop_waits_longer_than_the_drain() -> None:
    grace = interpolated(ROOT / "compose.yaml")["STOP_GRACE_PERIOD"]
    assert float(grace.removesuffix("s")) > Settings.model_fields["drain_s"].default


def test_the_container_is_hardened() -> None:
    found = service()
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(found)
    assert found["mem_limit"] == found["memswap_limit"]


def test_the_air_gap_has_no_masquerade_and_no_names() -> None:
    overlay = yaml.safe_load((ROOT / "docker" / "compose.airgap.yaml").read_text())
    options = overlay["networks"]["default"]["driver_opts"]
    assert options == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert overlay["services"]["appliance"]["dns"] == "127.0.0.1"


def test_monitoring_is_let_in_by_the_service_s_name() -> None:
    variable = service(ROOT / "docker" / "compose.monitoring.yaml")["environment"]["APPLIANCE_ALLOWED_HOSTS"]
    assert json.loads(variable.removeprefix("${APPLIANCE_ALLOWED_HOSTS:-").removesuffix("}")) == ["appliance"]
    scraped = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
    assert scraped["scrape_configs"][0]["static_configs"] == [{"targets": ["appliance:8080"]}]


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "appliance.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    known = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    used = {name for text in expressions for name in re.findall(r"\bappliance_\w+", text)}
    assert used
    assert {re.sub(r"_bucket$", "", name) for name in used} <= known


def bake() -> dict[str, Any]:
    with (ROOT / "docker" / "bake.hcl").open() as file:
        return plain(hcl2.load(file))


def plain(value: Any) -> Any:
    """What the parser found, without the marks and quotes that it leaves."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.strip('"') if isinstance(value, str) else value


def bake_targets() -> dict[str, Any]:
    return {name: body for block in bake()["target"] for name, body in block.items()}


def test_bake_builds_stages_that_there_are_with_arguments_that_they_take() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    targets = bake_targets()
    assert {"cpu", "cuda", "multi-platform", "reproducible"} < set(targets)
    for name, target in targets.items():
        assert set(target.get("args", {})) <= arguments, name
        if "target" in target:
            assert target["target"] in stages, name


def test_what_compose_builds_with_are_arguments_of_the_dockerfile() -> None:
    arguments = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for path in (ROOT / "compose.yaml", ROOT / "docker" / "compose.cuda.yaml"):
        assert set(service(path)["build"]["args"]) <= arguments


def test_versions_and_the_base_s_digest_are_the_same_everywhere() -> None:
    variables = {name: body["default"] for block in bake()["variable"] for name, body in block.items()}
    places = [ENV_EXAMPLE, (ROOT / "compose.yaml").read_text(), (ROOT / "scripts" / "build_image.sh").read_text()]
    digests = {digest for text in places for digest in BASE_IMAGE.findall(text)}
    assert digests == {variables["BASE_IMAGE"]}
    assert variables["VERSION"] == appliance.__version__
    images = [interpolated(path)["IMAGE"] for path in (ROOT / "compose.yaml", ROOT / "docker" / "compose.cuda.yaml")]
    assert images == [f"llm-appliance:{appliance.__version__}-{flavour}" for flavour in ("cpu", "cuda")]
    architectures = re.findall(r"^ARG CUDA_ARCHITECTURES=\"(.+)\"$", DOCKERFILE, re.MULTILINE)
    assert architectures == [variables["CUDA_ARCHITECTURES"]]


def test_the_dockerfile_builds_with_the_frontend_of_docker_20_10() -> None:
    assert "# syntax" not in DOCKERFILE
    assert "<<" not in DOCKERFILE
    assert not re.search(r"^(COPY|ADD) --(link|chmod|checksum)|^RUN .*--network=", DOCKERFILE, re.MULTILINE)


def test_each_stage_says_what_it_is_for() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    headed = re.findall(r"^# (\S+)\n# Purpose: .+\n(?:#.*\n)*FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert [(stage, stage) for stage in stages] == headed


def test_the_entrypoint_is_short_and_ends_in_exec() -> None:
    lines = (ROOT / "docker" / "entrypoint.sh").read_text().splitlines()
    assert len(lines) < 20
    assert lines[-1] == 'exec "$@"'


@pytest.mark.parametrize("path", sorted([*ROOT.glob("docker/*.sh"), *ROOT.glob("scripts/*.sh")]), ids=lambda p: p.name)
def test_scripts_are_posix_shell(path: Path) -> None:
    assert path.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["dash", "-n", path], check=True)


def test_the_unit_passes_systemd_s_own_check(tmp_path: Path) -> None:
    # systemd-analyze looks for the program, which is elsewhere here.
    unit = (ROOT / "docker" / "appliance.service").read_text()
    assert "ExecStart=/opt/llm-appliance/.venv/bin/appliance serve" in unit
    path = tmp_path / "appliance.service"
    path.write_text(unit.replace("ExecStart=/opt/llm-appliance/.venv/bin/appliance", f"ExecStart={sys.executable}"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
