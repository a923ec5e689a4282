"""Grammars that a text must follow: llguidance compiles them, says which tokens may come next, and which must.

A grammar is llguidance's: Lark, or what it makes of a JSON schema. Control tokens stand in it by
``control_tokens.special_token``; all others are bytes.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from appliance import logs
from appliance.engine.sequence import MAX_FORCED
from appliance.errors import ApplianceError, EngineFailed, EngineUnavailable, InvalidRequest

log = logging.getLogger(__name__)

# Compiled ones that are kept: so many, and of so many bytes together.
MAX_KEPT = 64
MAX_KEPT_BYTES = 256 << 20
# What they take, measured: for each character, and for each second that their beginning takes.
_BYTES_PER_CHAR = 64
_BYTES_PER_S = 200e6
# A few hundred milliseconds at most on a slow machine; llguidance's units.
LIMITS = LLParserLimits(initial_lexer_fuel=4_000_000, max_grammar_size=500_000)
# Of the processor's time, for one grammar.
MAX_COMPILE_S = 2.0
# Grammars that wait for the thread; those of requests that were aborted are among them.
MAX_UNDER_WAY = 256


class Constraint:
    """What one text's grammar says as its tokens come."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return self._matcher.is_stopped()

    def allows(self, token: int) -> bool:
        return self._matcher.validate_tokens([token]) == 1

    def mask(self) -> bytes:
        """A bit for each token of the vocabulary, lowest first: whether it may come next.

        Raises EngineFailed: the grammar became too complex.
        """
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, token: int) -> None:
        """Goes on behind ``token``. Raises EngineFailed if it may not come here."""
        self._matcher.consume_token(token)
        self._check()

    def accept_forced(self) -> list[int]:
        """The tokens that must come next, whatever the model says; goes on behind them."""
        forced = self._matcher.compute_ff_tokens()[:MAX_FORCED]
        if forced:
            self._matcher.consume_tokens(forced)
            self._check()
        return forced

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineFailed(f"the grammar can't be followed further: {_reason(self._matcher)}")


@dataclass(frozen=True, slots=True)
class _Compiled:
    """``n_bytes``: what it takes, an estimate."""

    result: LLMatcher | ApplianceError
    n_bytes: float


class GrammarCompiler:
    """Compiles on a thread of its own, one after the other; the latest ones are kept."""

    def __init__(self, make_tokenizer: Callable[[], LLTokenizer], on_done: Callable[[], None]) -> None:
        """``on_done`` is called on the other thread after each."""
        self._make_tokenizer = make_tokenizer
        self._on_done = on_done
        self._wanted: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[str, _Compiled]] = queue.SimpleQueue()
        self._compiled: OrderedDict[str, _Compiled] = OrderedDict()
        self._under_way: set[str] = set()
        self._thread: threading.Thread | None = None

    def prepare(self) -> None:
        """Makes the table of the vocabulary, which takes a second for a large one, before somebody waits for it."""
        if self._thread is None:
            # A daemon: what ends by an error doesn't wait for it.
            self._thread = threading.Thread(target=self._work, name="grammar-compiler", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Waits until the thread has ended: it must not look into a vocabulary that is freed."""
        if self._thread is not None:
            self._wanted.put(None)
            self._thread.join()

    def get(self, grammar: str) -> LLMatcher | None:
        """Its compiled form; None while it is being compiled: ask again after ``on_done``.

        Raises InvalidRequest if it is none, or a too complex one; EngineUnavailable if too many wait to be compiled.
        """
        self._collect()
        found = self._compiled.get(grammar)
        if found is None:
            self.prepare()
            if grammar not in self._under_way:
                if len(self._under_way) == MAX_UNDER_WAY:
                    raise EngineUnavailable(f"{MAX_UNDER_WAY} grammars wait to be compiled; try again later")
                self._under_way.add(grammar)
                self._wanted.put(grammar)
            return None
        self._compiled.move_to_end(grammar)
        if isinstance(found.result, ApplianceError):
            raise found.result.with_traceback(None)  # else it grows by each time
        return found.result

    def _collect(self) -> None:
        while not self._done.empty():
            grammar, result = self._done.get()
            self._under_way.discard(grammar)
            self._compiled[grammar] = result
        n_bytes = sum(compiled.n_bytes for compiled in self._compiled.values())
        while len(self._compiled) > MAX_KEPT or (n_bytes > MAX_KEPT_BYTES and len(self._compiled) > 1):
            _, oldest = self._compiled.popitem(last=False)
            n_bytes -= oldest.n_bytes

    def _work(self) -> None:
        begun_at = time.monotonic()
        compiled: Callable[[str], _Compiled]
        try:
            compiled = functools.partial(_compile, self._make_tokenizer())
        except Exception as error:  # whatever the vocabulary is: the engine serves all other requests
            log.exception("grammar_vocabulary_failed")
            failure = EngineFailed(f"grammars don't work with this model's vocabulary: {error}")
            compiled = functools.partial(_refuse, failure)
        log.debug(logs.event("grammar_vocabulary_ready", took_s=time.monotonic() - begun_at))
        while (grammar := self._wanted.get()) is not None:
            try:
                result = compiled(grammar)
            except Exception as error:  # else no grammar would ever be compiled again
                log.exception("grammar_failed")
                result = _refuse(InvalidRequest(f"the grammar can't be compiled: {error}"), grammar)
            self._done.put((grammar, result))
            self._on_done()


def _refuse(error: ApplianceError, grammar: str) -> _Compiled:
    return _Compiled(error, float(len(grammar)))


def _compile(tokenizer: LLTokenizer, grammar: str) -> _Compiled:
    """The compiled grammar with what its beginning takes, which for some is seconds and gigabytes.

    All copies have that from then on: done in a step, it would stop all others.
    """
    begun_at = time.thread_time()
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    beginning_s = 0.0
    if not matcher.is_error():
        parsed_at = time.thread_time()
        beginning = matcher.deep_copy()
        beginning.compute_bitmask()
        beginning.consume_tokens(beginning.compute_ff_tokens())
        beginning.compute_bitmask()
        beginning_s = time.thread_time() - parsed_at
        matcher = beginning if beginning.is_error() else matcher
    if matcher.is_error():
        return _refuse(InvalidRequest(f"the grammar can't be compiled: {_reason(matcher)}"), grammar)
    if (took_s := time.thread_time() - begun_at) > MAX_COMPILE_S:
        reason = f"the grammar took {took_s:.1f} s to compile; {MAX_COMPILE_S:g} s are allowed"
        return _refuse(InvalidRequest(reason), grammar)
    return _Compiled(matcher, _BYTES_PER_CHAR * len(grammar) + _BYTES_PER_S * beginning_s)


def _reason(matcher: LLMatcher) -> str:
    """In llguidance's words, without the dump of its state and of the grammar."""
    return matcher.get_error().partition("\n<state>")[0]
