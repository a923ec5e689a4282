"""LoRA adapters: pinned, converted and published with the version of a model that they were trained on."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import msgspec

from appliance.errors import ConfigError
from appliance.files import sha256_of
from appliance.models.convert import Converter
from appliance.models.hub import Hub
from appliance.models.lock import Adapter, AdapterFile, HubSource, Version
from appliance.models.sources import Sources
from appliance.models.workshop import Workshop

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def pin_adapter(repo: str, revision: str | None, name: str, version: Version, hub: Hub, sources: Sources) -> Version:
    """``version`` with an adapter of this name, pinned to a commit. One of the same name is replaced.

    Raises:
        ConfigError: the hub says no, or the repository is no LoRA adapter in PEFT's format.
    """
    _base_config(version)
    info = hub.info(repo, revision)
    files = {file.path: file for file in info.files}
    if CONFIG not in files or WEIGHTS not in files:
        raise ConfigError(f"{repo} is no adapter in PEFT's format: it has no {CONFIG} or no {WEIGHTS}")
    source = sources.pin(HubSource(info.repo, info.revision, info.gated), [files[CONFIG], files[WEIGHTS]])
    adapter = Adapter(name, source)
    known = {known.name: known for known in version.adapters}
    if name in known and known[name].source == source:
        return version
    return msgspec.structs.replace(version, adapters=tuple({**known, name: adapter}.values()))


def make_adapter(
    adapter: Adapter, version: Version, converter: Converter, sources: Sources, workshop: Workshop
) -> tuple[Path, Adapter]:
    """An adapter's GGUF file, and what the lock should hold of it.

    Raises:
        ConfigError: it can't be converted, or has other bytes than the lock says.
    """
    base = _base_config(version)
    conversion = adapter.conversion or converter.conversion("f16")
    converter.check(conversion)
    folder = sources.fetch(adapter.source)
    model_name = base.repo.rpartition("/")[2]
    made = workshop.result("adapter", adapter.source.files, adapter.name, base.repo, conversion)
    if not made.exists():
        with tempfile.TemporaryDirectory(prefix="appliance-adapter-") as scratch, workshop.new_file(made) as part:
            # The converter writes the names of both folders, and the base that the adapter names, into the file.
            plain = Path(scratch) / "adapter" / adapter.name
            plain.mkdir(parents=True)
            (plain / CONFIG).write_text(json.dumps(_plain_config(folder / CONFIG, base.repo)))
            shutil.copy(folder / WEIGHTS, plain)
            model = Path(scratch) / "base" / model_name
            model.mkdir(parents=True)
            shutil.copy(sources.fetch(base) / "config.json", model)
            converter.convert_adapter(plain, model, adapter.name, part)
    gguf = AdapterFile(sha256_of(made), made.stat().st_size)
    if adapter.gguf not in (None, gguf):
        workshop.forget_results()
        raise ConfigError(
            f"the adapter {adapter.name}: what was made has sha256 {gguf.sha256}, models.lock says "
            f"{adapter.gguf.sha256 if adapter.gguf else None}; it is not published"
        )
    return made, msgspec.structs.replace(adapter, conversion=conversion, gguf=gguf)


def _base_config(version: Version) -> HubSource:
    """The files of an adapter's base. Raises ConfigError if its architecture isn't among them."""
    source = version.source
    if not isinstance(source, HubSource) or all(file.path != "config.json" for file in source.files):
        raise ConfigError("adapters can be converted for models that come from the hub in its own format only")
    return source


def _plain_config(path: Path, repo: str) -> dict[str, object]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigError(f"{path} is no LoRA adapter: its peft_type is not LORA")
    return {**config, "base_model_name_or_path": repo}
