"""All workloads, in the order in which they run: those with the same servers follow each other."""

from __future__ import annotations

from bench.workloads.adapters import Adapters
from bench.workloads.base import Workload
from bench.workloads.embeddings import Embeddings
from bench.workloads.engine import EngineLoop
from bench.workloads.fairness import Fairness
from bench.workloads.gateway import Gateway
from bench.workloads.http import DISTINCT_CONTEXTS, LONG_PROMPT, ONE_STREAM, SHARED_PREFIX, clients
from bench.workloads.idle import Idle
from bench.workloads.response_cache import ResponseCache
from bench.workloads.speculation import SPECULATION
from bench.workloads.structured import STRUCTURED
from bench.workloads.vocabulary import Vocabulary
from bench.workloads.warm_tier import WarmTier

# A quick run leaves them out, for they take minutes, unless they are asked for.
NOT_QUICK = frozenset(
    {
        DISTINCT_CONTEXTS.name,
        SPECULATION.name,
        WarmTier.name,
        Fairness.name,
        Adapters.name,
        Embeddings.name,
        ResponseCache.name,
    }
)


def all_workloads(*, is_quick: bool) -> tuple[Workload, ...]:
    """In a quick run, answers to 32 clients are shorter."""
    return (
        Idle(),
        ONE_STREAM,
        LONG_PROMPT,
        DISTINCT_CONTEXTS,
        clients(8, 64),
        clients(32, 32 if is_quick else 64),
        SHARED_PREFIX,
        STRUCTURED,
        SPECULATION,
        WarmTier(),
        Fairness(),
        Adapters(),
        EngineLoop(),
        Embeddings(),
        Gateway(),
        ResponseCache(),
        Vocabulary(),
    )
