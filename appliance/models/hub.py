"""Asks a model hub what a repository holds, through huggingface_hub. Bytes are brought by ``download``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import ConfigError
from appliance.models.lock import check_relative

DEFAULT_BRANCH = "main"


@dataclass(frozen=True)
class RemoteFile:
    """``sha256`` is known of large files only (git LFS), ``git_blob`` of the others."""

    path: str
    size_bytes: int
    sha256: str | None
    git_blob: str | None


@dataclass(frozen=True)
class RepoInfo:
    """A repository at a commit."""

    repo: str
    revision: str
    gated: bool
    license: str
    files: tuple[RemoteFile, ...]


class Hub:
    """Endpoint, proxy, certificates and token come from huggingface_hub's and the system's usual variables."""

    def __init__(self, home: Path) -> None:
        """``home``: a folder for what huggingface_hub remembers."""
        _prepare_environment(home)
        import huggingface_hub

        self._api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="llm-appliance")
        self._hub = huggingface_hub

    @property
    def endpoint(self) -> str:
        return str(self._api.endpoint)

    def info(self, repo: str, revision: str | None) -> RepoInfo:
        """Resolves a branch, tag or commit (None: the main branch).

        Raises:
            ConfigError: it isn't there, may not be read, or the hub can't be reached; with the remedy.
        """
        with self._explained(repo, revision):
            info = self._api.model_info(repo, revision=revision or DEFAULT_BRANCH, files_metadata=True)
        if info.sha is None or info.siblings is None:
            raise ConfigError(f"{self.endpoint} doesn't say what {repo} holds at {revision or DEFAULT_BRANCH}")
        # They become names of folders and files before the lock is read again.
        if not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise ConfigError(f"{self.endpoint} calls {info.sha!r} a commit of {repo}; it is none")
        files = tuple(_remote_file(repo, sibling) for sibling in info.siblings)
        card: Any = info.card_data or {}
        return RepoInfo(repo, info.sha, bool(info.gated), str(card.get("license") or ""), files)

    def url(self, repo: str, revision: str, path: str) -> str:
        return self._hub.hf_hub_url(repo, path, revision=revision, endpoint=self.endpoint)

    def headers(self) -> dict[str, str]:
        """For downloads; they hold the token, if there is one. They may go to the endpoint only.

        Raises ConfigError where HF_HUB_OFFLINE is set.
        """
        if self._hub.constants.HF_HUB_OFFLINE:
            raise ConfigError(f"files are missing that {self.endpoint} has, and HF_HUB_OFFLINE is set; unset it")
        from huggingface_hub.utils._headers import build_hf_headers

        return dict(build_hf_headers(library_name="llm-appliance"))

    def explain_refusal(self, repo: str, revision: str, path: str) -> ConfigError:
        """Why the hub doesn't give a file."""
        try:
            with self._explained(repo, revision):
                self._hub.get_hf_file_metadata(self.url(repo, revision, path), token=self._hub.get_token())
        except ConfigError as error:
            return error
        return ConfigError(f"{self.endpoint} refused {path} of {repo} and would give it now; try again")

    @contextmanager
    def _explained(self, repo: str, revision: str | None) -> Iterator[None]:
        import httpx2
        from huggingface_hub import errors

        place = f"{repo}@{revision}" if revision else repo
        try:
            yield
        except errors.GatedRepoError:
            raise ConfigError(
                f"{repo} is gated: accept its conditions at {self.endpoint}/{repo} with your account, then set "
                "HF_TOKEN to a token of that account, or HF_TOKEN_PATH to a file that holds one"
            ) from None
        except errors.RevisionNotFoundError:
            raise ConfigError(f"{repo} has no revision {revision}: want a branch, a tag or a commit") from None
        except errors.RepositoryNotFoundError:
            raise ConfigError(
                f"{self.endpoint} has no repository {repo} that this account may see; check the name and, if it is "
                "private, set HF_TOKEN or HF_TOKEN_PATH"
            ) from None
        except errors.EntryNotFoundError as error:
            raise ConfigError(f"{place}: {_first_line(error)}") from None
        except errors.HFValidationError as error:
            raise ConfigError(f"{repo} is no name of a repository: {_first_line(error)}") from None
        except errors.OfflineModeIsEnabled:
            raise ConfigError(f"{place} needs {self.endpoint}, and HF_HUB_OFFLINE is set; unset it") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "an error"
            if status == 401:
                raise ConfigError(f"{self.endpoint} doesn't know the token: check HF_TOKEN or HF_TOKEN_PATH") from None
            raise ConfigError(f"{self.endpoint} answers {status} for {place}: {_first_line(error)}") from None
        except (httpx2.HTTPError, OSError) as error:
            raise ConfigError(
                f"{self.endpoint} can't be reached: {_first_line(error)}. Where there is no internet, set HF_ENDPOINT "
                "to a mirror, HTTPS_PROXY or SSL_CERT_FILE as your network wants, or bring a file with "
                "`appliance models import`"
            ) from None


def _remote_file(repo: str, sibling: Any) -> RemoteFile:
    try:
        check_relative(sibling.rfilename)
    except ValueError as error:
        raise ConfigError(f"{repo} names a file outside itself: {error}") from None
    if sibling.size is None:
        raise ConfigError(f"{repo}: the hub doesn't say how large {sibling.rfilename} is")
    if sibling.size < 0 or (sibling.lfs is not None and not re.fullmatch(r"[0-9a-f]{64}", sibling.lfs.sha256)):
        raise ConfigError(f"{repo}: the hub gives no size or no SHA-256 of {sibling.rfilename}")
    if sibling.lfs is not None:
        return RemoteFile(sibling.rfilename, sibling.size, sibling.lfs.sha256, None)
    return RemoteFile(sibling.rfilename, sibling.size, None, sibling.blob_id)


def _prepare_environment(home: Path) -> None:
    """huggingface_hub reads its variables when it is imported."""
    usual = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    os.environ.setdefault("HF_TOKEN_PATH", str(usual.expanduser() / "token"))
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
    # Without this file each process asks the hub for a list of coding tools to report itself as.
    home.mkdir(parents=True, exist_ok=True)
    (home / ".agent_harnesses.json").write_text('{"standardEnvVars": [], "harnesses": {}}')
    os.environ["HF_HOME"] = str(home)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
