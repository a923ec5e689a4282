"""What of a model decides how much memory it takes: plain numbers that ``appliance.models`` reads from a header."""

from __future__ import annotations

import msgspec

# Architectures for which llama.cpp makes no KV cache, and which have no output head (llama_model::create_memory).
_ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)


class LayerShape(msgspec.Struct, frozen=True):
    """One repeating layer.

    ``n_bytes`` are all its weights, ``n_expert_bytes`` of them the experts' tensors. ``matrices`` has the bytes of its
    matrices by the name of their type, ``expert_matrices`` those of the experts': some CPUs keep some types twice (see
    ``repack``). ``n_k`` and ``n_v`` are the elements that a token takes in the KV cache, ``n_state`` those that a
    sequence takes whatever its length. An ``is_swa`` layer sees a sliding window only.
    """

    n_bytes: int = 0
    n_expert_bytes: int = 0
    matrices: dict[str, int] = {}
    expert_matrices: dict[str, int] = {}
    n_k: int = 0
    n_v: int = 0
    n_state: int = 0
    is_swa: bool = False

    @property
    def is_recurrent(self) -> bool:
        return self.n_state > 0


class ModelShape(msgspec.Struct, frozen=True):
    """A model without layers is one whose shape isn't known.

    ``input_bytes`` are the token embeddings and what else always stays in RAM; ``output_bytes`` the output head, which
    counts as one more layer, and ``output_matrices`` its matrices by type. ``tied_bytes`` of it are the embeddings'
    tensor once more, which is a copy where the head is on a GPU. A token's activations in a layer are ``n_ff`` wide,
    and where it has experts ``n_expert_used`` times ``n_ff_expert``; its queries are ``n_attention`` wide.
    """

    architecture: str = ""
    layers: tuple[LayerShape, ...] = ()
    input_bytes: int = 0
    output_bytes: int = 0
    output_matrices: dict[str, int] = {}
    tied_bytes: int = 0
    n_vocab: int = 0
    n_embd: int = 0
    n_ff: int = 0
    n_head: int = 0
    n_attention: int = 0
    n_expert_used: int = 0
    n_ff_expert: int = 0
    n_ctx_train: int = 0
    n_swa: int = 0
    file_bytes: int = 0

    @property
    def n_layers(self) -> int:
        """Layers that can be put on a GPU: the repeating ones and the output head."""
        return len(self.layers) + 1

    @property
    def is_encoder(self) -> bool:
        """Whether a text is computed at once and forgotten, and no next token is predicted."""
        return self.architecture in _ENCODERS

    @property
    def has_experts(self) -> bool:
        return any(layer.n_expert_bytes for layer in self.layers)
