"""Nobody gets another's answer, and no model's answer is taken for another's."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from appliance.models.beside import of_template
from appliance.models.lock import Lock, TemplateFile
from appliance.models.lock_file import change_lock, with_entry
from appliance.models.store import ModelStore
from appliance.state.keys import KeyFile
from tests.api.admin import done
from tests.api.answers import HIT, JOINED, MISS, content, counts, error, frames, n_sampled, state
from tests.fake_models import digest
from tests.gateway import Gateway, run_gateway
from tests.response_cache import open_cache
from tests.scoped_engine import answer_of

ADA, BOB, CAT, DAN = (f"sk-{name}-0123456789abcdef" for name in ("ada", "bob", "cat", "dan"))
PROMPTS = ["a", "b", "ab", "abc", "x" * 50]
N_TOKENS = 12


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Bob and Cat share a scope."""
    path = tmp_path / "keys"
    path.write_text(f"{ADA} name=ada\n{BOB} name=bob scope=team\n{CAT} name=cat scope=team\n{DAN} name=ada\n")
    return path


async def ask(gateway: Gateway, key: str, text: str = "a", directive: str = "", **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": N_TOKENS, "temperature": 0, **fields}
    headers = {"Authorization": f"Bearer {key}", "Cache-Control": directive}
    return await gateway.http.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("seed", range(4))
async def test_in_whatever_order_they_ask_each_gets_an_answer_of_its_own_scope(
    tmp_path: Path, keys: Path, seed: int
) -> None:
    choose = random.Random(seed)
    known = KeyFile(keys)
    scopes = {key: entry.scope for key in (ADA, BOB, CAT, DAN) if (entry := known.find(key)) is not None}
    assert len(set(scopes.values())) == 3
    asked: set[tuple[str, str]] = set()

    async def check(gateway: Gateway, key: str, text: str, *, stream: bool) -> None:
        asked.add((scopes[key], text))
        response = await ask(gateway, key, text, stream=stream)
        if stream:
            got = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames(response.text))
        else:
            got = content(response)
        assert got == answer_of(scopes[key], text)[:N_TOKENS]
        assert state(response) in (HIT, JOINED, MISS)

    async with (
        open_cache(tmp_path) as cache,
        run_gateway(cache=cache, keys=keys, module="tests.scoped_engine") as gateway,
    ):
        for _ in range(12):
            burst = [
                check(gateway, choose.choice([*scopes]), choose.choice(PROMPTS), stream=choose.random() < 0.5)
                for _ in range(choose.randint(1, 12))
            ]
            await asyncio.gather(*burst)
        # Shared within a scope, and only there: each scope had each of its prompts computed once.
        assert n_sampled(gateway) == N_TOKENS * len(asked)
        assert counts(gateway).n_misses == len(asked)


async def test_what_was_stored_for_a_removed_key_is_nobody_s(tmp_path: Path, keys: Path) -> None:
    async with (
        open_cache(tmp_path) as cache,
        run_gateway(cache=cache, keys=keys, module="tests.scoped_engine") as gateway,
    ):
        assert state(await ask(gateway, ADA)) == MISS
        lines = keys.read_text().splitlines()
        new = "sk-new-0123456789abcdef"
        # At the removed key's line, with its name.
        keys.write_text("\n".join([f"{new} name=ada", *lines[1:]]))
        assert (await ask(gateway, ADA, directive="only-if-cached")).status_code == 401
        for key in (new, BOB, CAT, DAN):
            assert error(await ask(gateway, key, directive="only-if-cached")) == (504, "not_cached")
        found = KeyFile(keys).find(new)
        assert found is not None
        assert content(await ask(gateway, new)) == answer_of(found.scope, "a")[:N_TOKENS]


async def test_an_administrator_s_own_requests_are_a_scope_of_their_own(tmp_path: Path, keys: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, keys=keys) as gateway:
        token = gateway.admin["Authorization"].removeprefix("Bearer ")
        assert [state(await ask(gateway, key)) for key in (ADA, token, ADA, token)] == [MISS, MISS, HIT, HIT]


async def test_a_key_that_joins_a_scope_leaves_what_it_had(tmp_path: Path, keys: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, keys=keys) as gateway:
        assert [state(await ask(gateway, key)) for key in (ADA, BOB, CAT)] == [MISS, MISS, HIT]
        keys.write_text(keys.read_text().replace("name=ada", "name=ada scope=team", 1))
        assert state(await ask(gateway, ADA)) == HIT
        keys.write_text(keys.read_text().replace("name=bob scope=team", "name=bob"))
        assert state(await ask(gateway, BOB)) == MISS


async def test_answers_of_before_there_were_keys_are_no_key_s(tmp_path: Path, keys: Path) -> None:
    async with open_cache(tmp_path) as cache:
        async with run_gateway(cache=cache) as gateway:
            assert state(await gateway.chat("a", max_tokens=N_TOKENS)) == MISS
        async with run_gateway(cache=cache, keys=keys) as gateway:
            assert state(await ask(gateway, ADA)) == MISS


async def test_another_file_under_the_same_name_has_answers_of_its_own(tmp_path: Path) -> None:
    old, new = digest("fake", 1)[:12], digest("fake")[:12]
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, n_versions=2) as gateway:
        assert [state(await gateway.chat("a")) for _ in range(2)] == [MISS, HIT]
        assert (await done(gateway, "fake/use", {"version": old}))["version"] == old
        assert [state(await gateway.chat("a")) for _ in range(2)] == [MISS, HIT]
        assert state(await gateway.chat("a", model=f"fake@{new}")) == HIT
        await done(gateway, "fake/use", {"version": "previous"})
        assert state(await gateway.chat("a")) == HIT


async def test_a_file_that_the_lock_replaced_has_answers_of_its_own(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache, n_versions=2) as gateway:
        assert [state(await gateway.chat("a")) for _ in range(2)] == [MISS, HIT]
        # As after the model was built again from other bytes: the lock says nothing of the old ones.
        lock = gateway.state.config.models_lock

        def without_the_newest(before: Lock) -> Lock:
            entry = before.entry("fake")
            return with_entry(before, msgspec.structs.replace(entry, versions=entry.versions[1:]))

        change_lock(lock, without_the_newest)
        assert [state(await gateway.chat("a")) for _ in range(2)] == [MISS, HIT]


async def test_another_chat_template_has_answers_of_its_own(tmp_path: Path) -> None:
    async with open_cache(tmp_path) as cache, run_gateway(cache=cache) as gateway:
        assert state(await gateway.chat("a")) == MISS
        folder = gateway.state.config.models_dir
        # The second one renders the same prompt as the first.
        for template in ("{{ messages[-1].content }}b", "{{ messages[-1].content + 'b' }}"):
            pin_template(folder, template)
            assert [content(await gateway.chat("a")) for _ in range(2)] == ["cde", "cde"]
            assert state(await gateway.chat("a")) == HIT
            assert counts(gateway).n_misses == n_sampled(gateway) / 3
        assert counts(gateway).n_misses == 3


def pin_template(folder: Path, template: str) -> None:
    """Has the model use this template from now on."""
    pinned = TemplateFile("t.jinja", hashlib.sha256(template.encode()).hexdigest())

    def with_template(before: Lock) -> Lock:
        entry = before.entry("fake")
        version = msgspec.structs.replace(entry.versions[0], chat_template=pinned)
        changed = msgspec.structs.replace(entry, versions=(version,))
        ModelStore(folder).publish_beside(changed, version, of_template(pinned), template.encode())
        return with_entry(before, changed)

    change_lock(folder / "models.lock", with_template)
