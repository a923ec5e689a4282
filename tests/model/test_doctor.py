"""The doctor with llama.cpp, the real store and the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from appliance.models.store import StoredModel
from tests.server import ROOT


def test_the_doctor_measures_the_default_model_and_stores_its_speed(stored: StoredModel, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance", "doctor", "--json"]
    environment = {**os.environ, "APPLIANCE_STATE_DIR": str(tmp_path), "APPLIANCE_PORT": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=False)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert "tokens/s" in found["speed"]["message"]
    assert found["default model"]["status"] == found["llama.cpp"]["status"] == "ok"
    (key,) = json.loads((tmp_path / "doctor.json").read_text())
    assert key.startswith(stored.record.gguf_sha256)
