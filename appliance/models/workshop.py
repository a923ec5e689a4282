"""Where models are made: ``.work`` in the store's writable folder. Nothing there is served, all of it can be deleted.

``sources/<org>--<name>/<commit>/`` holds a repository's files, ``partial/`` what is being downloaded, ``made/`` the
results of conversion and quantization under the hash of their recipe.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from appliance.errors import ConfigError
from appliance.files import PART, exclusive, rename
from appliance.models.lock import HubSource

WORK = ".work"
# Folders in it that are gone when a command ends.
SCRATCH = "scratch-"


class Workshop:
    def __init__(self, models_dir: Path, imatrix_dir: Path | None = None) -> None:
        """``imatrix_dir``: where importance matrices are kept, if that isn't in ``models_dir``."""
        self.root = models_dir / WORK
        self.imatrix_dir = imatrix_dir or models_dir / ".imatrix"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """One process works here at a time. Raises ConfigError if another does, or it can't be written."""
        try:
            for folder in (self.partial, self.made):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"models_dir={self.root.parent} can't be written: {error.strerror}; set APPLIANCE_MODELS_DIR"
            ) from None
        with exclusive(self.root, busy=f"another `appliance models` command works in {self.root}; wait for its end"):
            for left in self.made.glob(f"*{PART}"):  # by one that was killed
                left.unlink()
            for folder in self.root.glob(f"{SCRATCH}*"):
                shutil.rmtree(folder)
            yield

    def check_room(self, n_bytes: int, what: str) -> None:
        """Raises ConfigError if the disk has no room for ``n_bytes`` more."""
        free = shutil.disk_usage(self.root).free
        if free < n_bytes:
            raise ConfigError(
                f"{what} take {n_bytes / 1e9:.1f} GB, {self.root.parent} has {free / 1e9:.1f} GB left; free some with "
                "`appliance models gc`, or set APPLIANCE_MODELS_DIR"
            )

    @property
    def partial(self) -> Path:
        return self.root / "partial"

    @property
    def made(self) -> Path:
        return self.root / "made"

    @property
    def hub_home(self) -> Path:
        return self.root / "hub"

    def imatrix(self, sha256: str) -> Path:
        """Where an importance matrix is kept; it can't be made again."""
        return self.imatrix_dir / f"{sha256}.gguf"

    def source_folder(self, source: HubSource) -> Path:
        return self.root / "sources" / source.repo.replace("/", "--") / source.commit

    def result(self, *recipe: object) -> Path:
        """Where the result of a recipe stands: the same recipe gives the same bytes."""
        digest = hashlib.sha256(msgspec.json.encode(recipe, order="sorted")).hexdigest()
        return self.made / f"{digest[:32]}.gguf"

    def forget_results(self) -> None:
        """Deletes what was converted and quantized, one of which has wrong bytes."""
        self.empty(self.made)

    @staticmethod
    def empty(folder: Path) -> None:
        """Deletes what is in one of the folders here. Raises ConfigError if it can't be."""
        try:
            for path in folder.glob("*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise ConfigError(f"{folder} can't be emptied: {error.strerror}") from None

    @contextmanager
    def new_file(self, path: Path) -> Iterator[Path]:
        """A path to write to, which gets its name at the end and is removed after an error."""
        part = path.with_name(f"{path.name}{PART}")
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            rename(part, path)
        finally:
            part.unlink(missing_ok=True)
