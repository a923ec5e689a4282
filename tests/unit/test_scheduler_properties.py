"""Whatever comes in whatever order: the books stay right and everything ends once."""

from __future__ import annotations

import itertools
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.engine import checkpoints
from appliance.engine.prompt_lookup import PromptLookup
from appliance.engine.sequence import Sequence
from appliance.engine.slots import Copy, Cut, Operation, Release
from appliance.engine.step import StepLimits
from tests.factories import scheduler, sequence

N_CTX = 60
N_BATCH = 12
EXACT_BATCH = 8
N_OUTPUTS = 7
KEYS = {"a": "own", "b": "common", "c": "common"}  # keys and their cache scopes


class Memory:
    """A KV cache that only checks: what each slot holds after each operation."""

    def __init__(self, *, can_cut: bool) -> None:
        self.can_cut = can_cut
        self.slots: dict[int, list[int]] = {}

    def run(self, memory: tuple[Operation, ...]) -> None:
        for operation in memory:
            match operation:
                case Copy(source, target, n_tokens):
                    assert not self.slots.get(target), "copied over a slot in use"
                    assert len(self.slots[source]) == n_tokens or (self.can_cut and len(self.slots[source]) > n_tokens)
                    self.slots[target] = self.slots[source][:n_tokens]
                case Cut(slot, n_tokens):
                    assert len(self.slots[slot]) > n_tokens, "nothing to cut"
                    del self.slots[slot][n_tokens:]
                case Release(slot):
                    self.slots.pop(slot, None)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(prefix_reuse=st.booleans(), exact_reuse=st.booleans(), can_cut_prefix=st.booleans())
    def start(self, prefix_reuse: bool, exact_reuse: bool, can_cut_prefix: bool) -> None:
        # So that prompts as short as these have checkpoints.
        self.constants = mock.patch.multiple(checkpoints, FIRST=4, MIN_TOKENS=2)
        self.constants.start()
        self.sched = scheduler(
            n_ctx=N_CTX,
            n_batch=N_BATCH,
            n_seq_max=5,
            max_running=3,
            exact_batch=EXACT_BATCH,
            exact_reuse=exact_reuse,
            prefix_reuse=prefix_reuse,
            can_cut_prefix=can_cut_prefix,
            n_outputs=N_OUTPUTS,
        )
        self.memory = Memory(can_cut=can_cut_prefix)
        self.open: list[Sequence] = []
        self.scopes: dict[int, str] = {}  # whose prompts a slot holds
        self.numbers = itertools.count()
        self.n_steps_without_progress = 0

    # Few different tokens, so that prompts often share prefixes.
    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=30),
        n=st.integers(1, 3),
        key=st.sampled_from(sorted(KEYS)),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        is_batch=st.booleans(),
        exact=st.booleans(),
        may_guess=st.booleans(),
    )
    def submit(
        self, prompt: list[int], n: int, key: str, weight: float, is_batch: bool, exact: bool, may_guess: bool
    ) -> None:
        request_id = f"r{len(self.scopes)}-{next(self.numbers)}"
        for index in range(n):
            seq = sequence(
                prompt=prompt,
                request_id=request_id,
                index=index,
                scope=KEYS[key],
                key=key,
                weight=weight,
                is_batch=is_batch,
                exact=exact,
            )
            seq.n_most = N_CTX - 1
            if may_guess:
                seq.lookup = PromptLookup(seq.tokens, len(prompt))
            self.sched.add(seq)
            self.open.append(seq)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.open))
        self.finish(seq)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.open))
        self.sched.discard(seq)
        self.open.remove(seq)

    @rule(token=st.integers(0, 2), n_forced=st.integers(0, 3), n_right=st.integers(0, 5))
    def step(self, token: int, n_forced: int = 0, n_right: int = 0) -> None:
        """``n_right`` guesses of each sequence turn out right, if it has as many."""
        plan = self.sched.schedule(StepLimits(beside_decode=N_BATCH, alone=N_BATCH, token_cost=0.0))
        assert sum(1 + len(chunk.draft) for chunk in plan.chunks if chunk.wants_logits) <= N_OUTPUTS
        assert plan.n_tokens <= (EXACT_BATCH if plan.exact else N_BATCH)
        assert len({chunk.slot for chunk in plan.chunks}) == len(plan.chunks), "two chunks in one slot"
        assert bool(plan.chunks) == bool(self.open), "a step computes something unless nothing is asked for"
        assert self.sched.n_cells_used + plan.n_tokens <= N_CTX
        self.memory.run(plan.memory)
        for operation in plan.memory:
            match operation:
                case Copy(source, target, _):
                    self.scopes[target] = self.scopes[source]
                case Release(slot):
                    self.scopes.pop(slot, None)
        for chunk in plan.chunks:
            held = self.memory.slots.setdefault(chunk.slot, [])
            seq = chunk.sequence
            assert self.scopes.setdefault(chunk.slot, seq.scope) == seq.scope, "two scopes share a prefix"
            assert held == seq.tokens[: chunk.start], "the cache holds something else than the sequence's beginning"
            held += seq.tokens[chunk.start : chunk.start + chunk.n_tokens]
            assert chunk.wants_logits == (len(held) == len(seq.tokens))
            assert not chunk.draft or (chunk.wants_logits and seq.lookup is not None)
            assert len(seq.tokens) + len(chunk.draft) < seq.n_most or not chunk.draft, "no room for what it leads to"
            held += chunk.draft
        right = {chunk.sequence: chunk.draft[:n_right] for chunk in plan.chunks if chunk.draft}
        followed = {seq: [*draft, token] for seq, draft in right.items()}
        wanting = [chunk.sequence for chunk in plan.chunks if chunk.wants_logits]
        firsts = [followed.get(seq, [token])[0] for seq in wanting]
        self.sched.apply(plan, firsts, {seq: len(draft) for seq, draft in right.items()})
        for seq, tokens in followed.items():
            for one in tokens[1:]:
                self.sched.follow(seq, one)
        for chunk in plan.chunks:
            if chunk.wants_logits and not chunk.draft:  # a grammar may want more behind it
                for _ in range(min(n_forced, N_CTX - 1 - len(chunk.sequence.tokens))):
                    self.sched.follow(chunk.sequence, token)
        self.sched.check_integrity()
        for seq in list(self.open):
            if seq.n_completion >= 20 or len(seq.tokens) > N_CTX - 1:
                self.finish(seq)

    @precondition(lambda self: self.sched.n_running > 1)
    @rule()
    def lose_room(self) -> None:
        """What happens when the backend says that the cache is full."""
        if not self.sched.drop_retained():
            assert self.sched.yield_room()

    def finish(self, seq: Sequence) -> None:
        self.sched.finish(seq)
        self.open.remove(seq)  # raises if it has ended before

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "sched"):
            self.sched.check_integrity()
            assert self.sched.n_running + self.sched.n_waiting == len(self.open)

    def teardown(self) -> None:
        """Left alone, everything comes to its end, and then an idle engine holds nothing but what it retains."""
        if not hasattr(self, "sched"):
            return
        self.constants.stop()
        for _ in range(2000):
            if not self.open:
                break
            self.step(1)
        assert not self.open, "some sequence never ends"
        assert self.sched.is_idle
        self.sched.drop_retained()
        self.sched.check_integrity()
        assert self.sched.n_cells_used == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=8))
def test_cells_in_use_are_those_that_differ(prompts: list[list[int]]) -> None:
    """Prompts computed one after the other use one cell for each node of their common tree."""
    sched = scheduler(n_seq_max=16, max_running=1)
    for prompt in prompts:
        seq = sequence(prompt=prompt)
        sched.add(seq)
        while seq.n_pending or seq.n_completion == 0:
            plan = sched.schedule()
            sched.apply(plan, []) if not plan.chunks[-1].wants_logits else sched.apply(plan, [9])
            if seq.n_completion:
                break
        sched.finish(seq)
    distinct = {tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)}
    # The last token of a prompt is computed again even if it is known: a duplicate cell each time.
    assert len(distinct) <= sched.n_cells_used <= len(distinct) + len(prompts)
