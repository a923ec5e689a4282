"""A small model, and its way into a store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from appliance.models.lock import Entry, Gguf, PyPISource, Version
from appliance.models.store import ModelStore, StoredModel

TEMPLATE = "{{ messages[-1].content }}"
MEMBER = "tiny_model/tiny.gguf"


def tiny_gguf(path: Path, *, template: str = TEMPLATE, name: str = "tiny", types: list[int] | None = None) -> bytes:
    """A GGUF file with a header and one small tensor."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<|end|>", "a", "b"])
    writer.add_token_types(types or [2, 3, 1, 1])
    writer.add_name(name)
    writer.add_file_type(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def tiny_projector(path: Path) -> bytes:
    """The header of a file that makes embeddings of images."""
    writer = GGUFWriter(path, "clip")
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def entry_for(content: bytes, carrier: bytes = b"") -> Entry:
    template_sha256 = hashlib.sha256(TEMPLATE.encode()).hexdigest()
    version = Version(
        source=PyPISource("tiny-model", "1.0", hashlib.sha256(carrier).hexdigest(), MEMBER),
        quantization="F32",
        gguf=Gguf(hashlib.sha256(content).hexdigest(), len(content), template_sha256),
    )
    return Entry(name="tiny", license="MIT", versions=(version,), note="small")


def sha_of(version: Version) -> str:
    assert version.gguf is not None
    return version.gguf.sha256


def published(store: ModelStore, entry: Entry, content: bytes, folder: Path, number: int = 0) -> StoredModel:
    path = folder / f"{hashlib.sha256(content).hexdigest()[:8]}.gguf"
    path.unlink(missing_ok=True)  # it may be linked
    path.write_bytes(content)
    return store.publish(entry, entry.versions[number], path)


def files_in(root: Path) -> list[str]:
    """What is published, partly or wholly."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] == "tiny")
