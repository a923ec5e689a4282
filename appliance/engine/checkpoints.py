"""Where to keep copies of a prompt's state, for models whose memory can't be cut back to a shorter prefix.

With those, a later prompt can go on only from where a slot ends. So the computation of a prompt stops at some
positions, and a copy of what its slot holds there, which costs no cells, stays in a slot of its own.
"""

from __future__ import annotations

# A checkpoint costs a step that ends early, and a slot: it must save this many tokens.
MIN_TOKENS = 64
# From here on at each doubling: whatever beginning two prompts have in common, at least half of it is found again, and
# the longest prompts make no more than ten.
FIRST = 256


def positions(n_prompt: int, *, n_reused: int, n_known: int) -> list[int]:
    """At which numbers of computed tokens to stop, in ascending order.

    ``n_reused`` of the ``n_prompt`` tokens are computed already; ``n_known`` begin another known prompt, too.
    """
    # The last token is computed again for the same prompt: its logits are wanted.
    candidates = [n_known, n_prompt - 1]
    position = FIRST
    while position < n_prompt - 1:
        candidates.append(position)
        position *= 2
    chosen: list[int] = []
    for candidate in candidates:  # those that are most likely to be wanted come first
        if candidate - n_reused >= MIN_TOKENS and all(abs(candidate - other) >= MIN_TOKENS for other in chosen):
            chosen.append(candidate)
    return sorted(chosen)
