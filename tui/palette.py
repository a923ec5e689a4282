"""The command palette: whatever a key does in the section that is shown, and in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from textual import actions
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.dom import DOMNode

from tui.keymap import bindings_of

if TYPE_CHECKING:
    from tui.app import ApplianceApp


@dataclass(frozen=True, slots=True)
class _Command:
    title: str
    help: str
    node: DOMNode
    action: str


class BindingCommands(Provider):
    """What can't be done at the moment isn't offered."""

    async def discover(self) -> Hits:
        for command in self._commands():
            yield DiscoveryHit(command.title, partial(self._run, command), help=command.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in self._commands():
            score = max(matcher.match(command.title), 0.8 * matcher.match(command.help))
            if score > 0:
                yield Hit(score, matcher.highlight(command.title), partial(self._run, command), help=command.help)

    async def _run(self, command: _Command) -> None:
        await self.app.run_action(command.action, command.node)

    def _commands(self) -> Iterator[_Command]:
        """The focused widget's first, then the section's, then the app's."""
        seen: set[str] = set()
        for node in (*self._focused_chain(), self.screen, self.app):
            for binding in _bindings(type(node)):
                name = binding.id or ""
                if name not in seen and self._is_enabled(node, binding):
                    seen.add(name)
                    yield _Command(self._title(binding), binding.tooltip or binding.description, node, binding.action)

    def _focused_chain(self) -> Iterator[DOMNode]:
        node: DOMNode | None = self.focused
        while node is not None and node is not self.screen:
            yield node
            node = node.parent

    def _is_enabled(self, node: DOMNode, binding: Binding) -> bool:
        _, name, parameters = actions.parse(binding.action)
        return bool(node.check_action(name, parameters))

    def _title(self, binding: Binding) -> str:
        key = cast("ApplianceApp", self.app).key_text(str(binding.id), binding.key)
        return f"{binding.description} ({key})"


def _bindings(kind: type[DOMNode]) -> Iterator[Binding]:
    """Its own, and those that it has from others of the terminal UI."""
    for each in kind.__mro__:
        if each.__module__.startswith("tui."):
            yield from bindings_of(vars(each).get("BINDINGS", ()))
