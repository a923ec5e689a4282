"""Two real models on a machine that holds one: switching under load, and engines that are stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest

from appliance.models.store import StoredModel
from tests.server import APPLIANCE, ROOT, RunningServer, environment, start_server

JSON = {"type": "json_object"}
N_SWITCHES = 50
N_CLIENTS = 4
# The default model with a small context takes 160 to 200 MiB; two of them don't fit.
RAM_LIMIT = "300MiB"


@pytest.fixture(scope="module")
def two_models(stored: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings for a store with the default model under two names."""
    folder = tmp_path_factory.mktemp("two-models")
    (folder / "models.lock").write_text("schema = 1\n")
    settings = {
        "APPLIANCE_MODELS_DIR": str(folder / "models"),
        "APPLIANCE_MODELS_LOCK": str(folder / "models.lock"),
        "APPLIANCE_N_CTX": "1024",
        "APPLIANCE_MAX_RUNNING": "4",
        "APPLIANCE_RAM_LIMIT": RAM_LIMIT,
        "APPLIANCE_SWITCH_WAIT_S": "0.1",
    }
    for name in ("one", "two"):
        command = [*APPLIANCE, "models", "import", str(stored.path), "--name", name]
        subprocess.run(command, cwd=ROOT, env=environment(folder, **settings), check=True, capture_output=True)
    return settings


@dataclass(frozen=True)
class Appliance:
    server: RunningServer
    http: httpx.Client

    def ask(self, model: str, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def models(self) -> dict[str, Any]:
        return {model["name"]: model for model in self.admin("GET", "/admin/status")["models"]}

    def n_loads(self) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        loads = [line for line in lines if line.startswith("appliance_model_loads_total{") and 'outcome="ok"' in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in loads)

    def admin(self, method: str, path: str) -> Any:
        token = (self.server.state_dir / "admin-token").read_text().strip()
        response = self.http.request(method, path, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def appliance(two_models: dict[str, str]) -> Iterator[Appliance]:
    with (
        start_server(**{**two_models, "APPLIANCE_WEDGED_AFTER_S": "2"}) as server,
        httpx.Client(base_url=server.url, timeout=110, trust_env=False) as http,
    ):
        yield Appliance(server, http)


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@pytest.mark.timeout(400)
def test_fifty_switches_under_load_lose_no_request_and_no_memory(appliance: Appliance) -> None:
    for model in ("one", "two", "one"):
        assert appliance.ask(model).status_code == 200
    # The table that grammars need is made some time after the load: an engine that was asked for JSON has it.
    assert appliance.ask("one", response_format=JSON).status_code == 200
    gateway_before = rss_bytes(appliance.server.process.pid)
    engine_before = rss_bytes(appliance.models()["one"]["engine"]["pid"])
    done = appliance.n_loads() + N_SWITCHES

    def client(number: int) -> list[int]:
        statuses = []
        while appliance.n_loads() < done and len(statuses) < 20 * N_SWITCHES:
            statuses.append(appliance.ask("one" if number % 2 else "two").status_code)
            number += 1
        return statuses

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        statuses = [status for found in pool.map(client, range(N_CLIENTS)) for status in found]
    assert set(statuses) == {200}
    assert appliance.n_loads() >= done
    assert appliance.ask("one", response_format=JSON).status_code == 200
    models = appliance.models()
    assert (models["one"]["state"], models["two"]["state"]) == ("ready", "stored")
    # One engine at a time, and the last is no larger than the first.
    children = psutil.Process(appliance.server.process.pid).children()
    assert [child.pid for child in children] == [models["one"]["engine"]["pid"]]
    assert rss_bytes(children[0].pid) == pytest.approx(engine_before, rel=0.1)
    assert rss_bytes(appliance.server.process.pid) < gateway_before + (16 << 20)


def test_both_models_answer_alike_after_a_switch(appliance: Appliance) -> None:
    """They have the same bytes: whatever was loaded in between, a greedy answer is the same."""
    texts = {
        appliance.ask(model, temperature=0, seed=1, max_tokens=12).json()["choices"][0]["message"]["content"]
        for model in ("one", "two", "one")
    }
    assert len(texts) == 1


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_engine_that_is_stopped_or_killed_is_replaced_and_nothing_is_lost(
    appliance: Appliance, number: signal.Signals
) -> None:
    pid = appliance.models()["one"]["engine"]["pid"]
    os.kill(pid, number)
    # Nothing of it was sent: it is run again on the next engine.
    assert appliance.ask("one").status_code == 200
    assert appliance.models()["one"]["engine"]["pid"] != pid
    assert not psutil.pid_exists(pid)


def test_what_was_measured_is_remembered_for_the_next_start(appliance: Appliance) -> None:
    memory = appliance.models()["one"]["engine"]["memory"]["RAM"]
    assert memory["weights_bytes"] > 90e6
    assert (appliance.server.state_dir / "measured.json").exists()
