"""Models without weights: published in a store like real ones, for gateways whose engines are fake."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from appliance.hardware.shape import LayerShape, ModelShape
from appliance.models.beside import of_adapter
from appliance.models.gguf_header import GGUFHeader
from appliance.models.lock import SCHEMA, Adapter, AdapterFile, Entry, FileSource, Gguf, HubSource, Version
from appliance.models.lock_file import change_lock, with_entry
from appliance.models.store import RECORD_SCHEMA, Record

# The prompt is the last message: the fake model goes on in the alphabet behind it.
HEADER = GGUFHeader(
    architecture="fake",
    n_ctx_train=256,
    n_params=1,
    tensor_types=("F32",),
    chat_template="{{ messages[-1].content }}",
    bos_token="",
    eos_token="",
    control_tokens=("<|end|>",),
    longest_token_bytes=1,
)

# One that embeds.
EMBEDDING_HEADER = msgspec.structs.replace(HEADER, chat_template=None, pooling="mean", n_embd=4)


def shape(n_bytes: int, *, n_layers: int = 10) -> ModelShape:
    """A model whose weights take so much, in layers of the same size, and whose KV cache takes next to nothing."""
    layer = LayerShape(n_bytes=n_bytes // n_layers, n_k=1, n_v=1)
    return ModelShape(architecture="fake", layers=(layer,) * n_layers, n_ctx_train=256, file_bytes=n_bytes)


def publish_fakes(
    folder: Path,
    models: Mapping[str, GGUFHeader],
    *,
    note: str = "",
    shapes: Mapping[str, ModelShape] | None = None,
    n_versions: int = 1,
    aliases: Mapping[str, tuple[str, ...]] | None = None,
    adapters: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Writes ``models.lock`` and a store for ``models`` into ``folder``; the newest version is :func:`digest`'s 0.

    ``adapters`` are those of each model's newest version.
    """
    lock = folder / "models.lock"
    lock.write_text(f"schema = {SCHEMA}\n")
    for name, header in models.items():
        template = hashlib.sha256((header.chat_template or "").encode()).hexdigest()
        versions = []
        for number in range(n_versions):
            gguf = Gguf(digest(name, number), 4, chat_template_sha256=template, n_ctx_train=header.n_ctx_train)
            _publish(folder, name, number, header, (shapes or {}).get(name, ModelShape()))
            adapted = (adapters or {}).get(name, ()) if number == 0 else ()
            made = tuple(_publish_adapter(folder, name, adapter) for adapter in adapted)
            versions.append(Version(FileSource(f"{name}.gguf"), "F32", gguf=gguf, adapters=made))
        entry = Entry(name, "unknown", tuple(versions), aliases=(aliases or {}).get(name, ()), note=note)
        change_lock(lock, lambda before, entry=entry: with_entry(before, entry))  # type: ignore[misc]


def digest(name: str, number: int = 0) -> str:
    """What stands for the hash of a version's file."""
    return hashlib.sha256(f"{name}{number or ''}".encode()).hexdigest()


def _publish_adapter(folder: Path, name: str, adapter: str) -> Adapter:
    content = f"{name}:{adapter}".encode()
    gguf = AdapterFile(hashlib.sha256(content).hexdigest(), len(content))
    found = Adapter(adapter, HubSource("org/lora", revision="0" * 40), gguf=gguf)
    path = folder / name / digest(name)[:12] / of_adapter(found).path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return found


def _publish(folder: Path, name: str, number: int, header: GGUFHeader, shape: ModelShape) -> None:
    place = folder / name / digest(name, number)[:12]
    place.mkdir(parents=True)
    (place / "model.gguf").write_bytes(b"GGUF")
    status = (place / "model.gguf").stat()
    record = Record(
        schema=RECORD_SCHEMA,
        name=name,
        gguf_sha256=digest(name, number),
        gguf_bytes=4,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        quantization="F32",
        header=header,
        shape=shape,
    )
    (place / "record.json").write_bytes(msgspec.json.encode(record))
