"""Brings a repository's files here: by commit, in parallel, checked while they stream, taken up where they were cut."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

import httpx
import msgspec

from appliance.errors import ConfigError
from appliance.files import rename, sha256_of
from appliance.models.download import DownloadCancelled, Expected, Refused, download
from appliance.models.hub import Hub, RemoteFile, RepoInfo
from appliance.models.lock import HubSource, SourceFile
from appliance.models.report import Advance, Report
from appliance.models.workshop import SCRATCH, Workshop

N_PARALLEL = 4
# What conversion reads, and the licence. Not the model card: the converter would copy its words into the file.
CONVERSION_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt", "LICENSE*", "LICENCE*")
PICKLE_PATTERNS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
LICENSE_PATTERNS = ("LICENSE*", "LICENCE*", "USE_POLICY*", "NOTICE*")
# The same weights once more, for other programs.
OTHER_FOLDERS = ("onnx/*", "openvino/*", "original/*", "coreml/*", "flax/*", ".git/*")


def chosen_files(info: RepoInfo, allow_patterns: tuple[str, ...], *, allow_pickle: bool) -> list[RemoteFile]:
    """The files of a repository that a lock pins.

    Raises:
        ConfigError: there is nothing that a model could be made of, or only what may run code when it is read.
    """
    if allow_patterns:
        chosen = [file for file in info.files if _matches(file.path, allow_patterns)]
        if not chosen:
            raise ConfigError(f"{info.repo} has no file like {', '.join(allow_patterns)}; it has {_names(info.files)}")
    else:
        chosen = [
            file
            for file in info.files
            if _matches(file.path, CONVERSION_PATTERNS) and not _matches(file.path, OTHER_FOLDERS)
        ]
        if any(file.path.startswith("model") and file.path.endswith(".safetensors") for file in chosen):
            chosen = [file for file in chosen if not file.path.startswith("consolidated")]
    if any(file.path.endswith((".safetensors", ".gguf")) for file in chosen):
        return chosen
    ggufs = [file for file in info.files if file.path.endswith(".gguf")]
    if ggufs:
        raise ConfigError(f"{info.repo} holds GGUF files; say with --file which: {_names(ggufs)}")
    pickles = [file for file in info.files if _matches(file.path, PICKLE_PATTERNS)]
    if pickles and allow_pickle:
        return [*chosen, *pickles]
    if pickles:
        raise ConfigError(
            f"{info.repo} has its weights only in {_names(pickles)}, a format that can run code when it is read; "
            "look for a repository with safetensors, or trust this one with --allow-pickle"
        )
    raise ConfigError(f"{info.repo} holds no weights: neither safetensors nor GGUF")


class Sources:
    def __init__(self, workshop: Workshop, hub: Callable[[], Hub], report: Report) -> None:
        """``hub`` is called only if something has to be fetched."""
        self._workshop = workshop
        self._hub = hub
        self._report = report

    def pin(self, source: HubSource, files: Iterable[RemoteFile]) -> HubSource:
        """``source`` with the hash of each file. The hub knows those of large files; the others are fetched."""
        files = list(files)
        small = [file for file in files if file.sha256 is None]
        wanted = [(file.path, _expected(file)) for file in small]
        hashes = self._fetch(source, wanted, f"reading {source.repo}") if wanted else {}
        pinned = [SourceFile(file.path, file.sha256 or hashes[file.path], file.size_bytes) for file in files]
        return msgspec.structs.replace(source, files=tuple(sorted(pinned, key=lambda file: file.path)))

    def fetch(self, source: HubSource) -> Path:
        """The folder with all files of a source. Raises ConfigError, with the remedy."""
        wanted = [(file.path, _locked(file)) for file in source.files if not self._has(source, file)]
        if wanted:
            self._workshop.check_room(self.n_bytes_missing(source), f"the files of {source.repo}")
            self._fetch(source, wanted, f"fetching {source.repo}")
        return self._workshop.source_folder(source)

    @contextmanager
    def view(self, source: HubSource, name: str) -> Iterator[Path]:
        """A folder of this name with the files of a source and no others, as links."""
        folder = self._workshop.source_folder(source)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._workshop.root) as scratch:
            view = Path(scratch) / name
            for file in source.files:
                target = view / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / file.path, target)
            yield view

    def n_bytes_missing(self, source: HubSource) -> int:
        """What :meth:`fetch` would still download, at most."""
        missing = [file for file in source.files if not self._has(source, file)]
        parts = (self._part(source, file.path, _locked(file)) for file in missing)
        here = sum(part.stat().st_size for part in parts if part.exists())
        return max(0, sum(file.size_bytes for file in missing) - here)

    def verify(self, source: HubSource) -> None:
        """Hashes what is here. Raises ConfigError if a file has other bytes than the lock says, and deletes it."""
        folder = self._workshop.source_folder(source)
        here = [file for file in source.files if self._has(source, file)]
        with self._report.stage(f"hashing {source.repo}", sum(f.size_bytes for f in here), is_bytes=True) as advance:
            for file in here:
                if (digest := sha256_of(folder / file.path, advance)) != file.sha256:
                    (folder / file.path).unlink()
                    raise ConfigError(
                        f"{folder / file.path} has sha256 {digest}, models.lock says {file.sha256}; it was deleted, "
                        "and the next call fetches it again"
                    )

    def _has(self, source: HubSource, file: SourceFile) -> bool:
        path = self._workshop.source_folder(source) / file.path
        return path.is_file() and path.stat().st_size == file.size_bytes

    def _part(self, source: HubSource, path: str, expected: Expected) -> Path:
        """By what is wanted: another commit with the same file goes on with it."""
        return self._workshop.partial / hashlib.sha256(f"{source.repo} {path} {expected}".encode()).hexdigest()[:32]

    def _fetch(self, source: HubSource, wanted: list[tuple[str, Expected]], title: str) -> dict[str, str]:
        """Each file's SHA-256, by its path."""
        hub, cancelled = self._hub(), Event()
        n_bytes = sum(expected.size_bytes for _, expected in wanted)
        hashes: dict[str, str] = {}
        with (
            httpx.Client() as client,
            self._report.stage(title, n_bytes, is_bytes=True) as advance,
            ThreadPoolExecutor(N_PARALLEL) as pool,
        ):
            fetch = partial(self._fetch_file, hub, client, source, advance=advance, cancelled=cancelled)
            # The largest first, so that it isn't alone at the end.
            wanted.sort(key=lambda item: -item[1].size_bytes)
            running = {pool.submit(fetch, path, expected): path for path, expected in wanted}
            try:
                for done in as_completed(running):
                    hashes[running[done]] = done.result()
            except BaseException:
                cancelled.set()
                client.close()  # which ends what waits for a server
                raise
        return hashes

    def _fetch_file(
        self,
        hub: Hub,
        client: httpx.Client,
        source: HubSource,
        path: str,
        expected: Expected,
        *,
        advance: Advance,
        cancelled: Event,
    ) -> str:
        if cancelled.is_set():
            raise DownloadCancelled
        target = self._workshop.source_folder(source) / path
        part = self._part(source, path, expected)
        url = hub.url(source.repo, source.commit, path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = download(client, url, hub.headers(), expected, part, advance=advance, cancelled=cancelled)
            rename(part, target)
        except Refused:
            raise hub.explain_refusal(source.repo, source.commit, path) from None
        except OSError as error:
            raise ConfigError(f"{target} can't be written: {error.strerror or error}") from None
        return digest


def _locked(file: SourceFile) -> Expected:
    return Expected(file.size_bytes, sha256=file.sha256)


def _expected(file: RemoteFile) -> Expected:
    return Expected(file.size_bytes, sha256=file.sha256, git_blob=file.git_blob)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _names(files: Iterable[RemoteFile]) -> str:
    names = [file.path for file in files]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "no files"
