"""A hub with real repositories, and folders in which ``appliance models`` works, as an operator would have them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.models.lock import Lock, read_lock
from tests.pipeline.hub import LoopbackHub
from tests.server import ROOT

# The default model, in the hub's form, and its name here.
REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAME = "smollm2-135m-instruct"
CONVERTER_PYTHON = ROOT / ".venv-convert" / "bin" / "python"


@dataclass
class Workplace:
    folder: Path
    hub: LoopbackHub
    more: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if not self.lock_path.exists():
            self.lock_path.write_text("# ours\nschema = 1\n")

    @property
    def lock_path(self) -> Path:
        return self.folder / "models.lock"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def lock(self) -> Lock:
        return read_lock(self.lock_path)

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("APPLIANCE_", "HF_")) and not name.lower().endswith("_proxy")
        }
        return {**kept, **self.settings, "HF_ENDPOINT": self.hub.url, **self.more}

    @property
    def settings(self) -> dict[str, str]:
        return {
            "APPLIANCE_MODELS_LOCK": str(self.lock_path),
            "APPLIANCE_MODELS_DIR": str(self.models),
            "APPLIANCE_STATE_DIR": str(self.folder / "state"),
            "APPLIANCE_CONVERTER_PYTHON": str(CONVERTER_PYTHON),
            "APPLIANCE_N_THREADS": "1",
        }

    def copied(self, folder: Path) -> Workplace:
        """Another one in the same state; its model files are linked."""
        shutil.copytree(self.models, folder / "models", copy_function=os.link)
        shutil.copy(self.lock_path, folder)
        return Workplace(folder, self.hub, self.more)

    def start(self, *words: str, stdout: int | None = None) -> subprocess.Popen[str]:
        """``appliance models`` in a session of its own; its output goes to the test's, or to ``stdout``."""
        command = [sys.executable, "-m", "appliance", "models", *words]
        stderr = subprocess.STDOUT if stdout is not None else None
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, text=True, start_new_session=True, stdout=stdout, stderr=stderr
        )

    def run(self, *words: str, status: int = 0) -> str:
        """What ``appliance models`` prints, errors included."""
        process = self.start(*words, stdout=subprocess.PIPE)
        said, _ = process.communicate()
        assert process.returncode == status, said
        return said

    def run_json(self, *words: str) -> Any:
        """The one document that ``appliance models`` prints with ``--json``; what else it says went to stderr."""
        command = [sys.executable, "-m", "appliance", "models", *words, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def published(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.models)): path.read_bytes() for path in self.models.glob("*/*/model.gguf")}

    def made(self) -> list[Path]:
        """The unquantized file first."""
        return sorted((self.models / ".work" / "made").glob("*.gguf"), key=lambda path: -path.stat().st_size)
