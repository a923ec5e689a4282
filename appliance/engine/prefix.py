"""Which tokens are in the KV cache, and which slots hold them.

A tree for each scope. A node is a run of tokens whose cells are held by every slot that ends in it or below
it; forking a slot shares the cells of the common part, as ``llama_memory_seq_cp`` does in a unified cache.
So the tree is both the index that finds the longest computed prefix of a prompt and the count of cells in use.
"""

from __future__ import annotations


class Node:
    __slots__ = ("children", "exact", "parent", "slots", "tokens")

    def __init__(self, tokens: list[int], parent: Node | None, *, exact: bool) -> None:
        self.tokens = tokens
        self.parent = parent
        self.exact = exact
        self.children: list[Node] = []
        self.slots: set[int] = set()


class PrefixTree:
    def __init__(self) -> None:
        self.n_cells = 0
        self._roots: dict[str, Node] = {}
        self._ends: dict[int, Node] = {}

    def open(self, slot: int, scope: str) -> None:
        """Starts ``slot`` with no tokens."""
        root = self._roots.setdefault(scope, Node([], None, exact=True))
        self._place(slot, root)

    def match(self, scope: str, tokens: list[int], *, exact: bool) -> tuple[int, int | None]:
        """The length of the longest computed prefix of ``tokens``, and a slot that holds it (None at 0).

        With ``exact``, only runs that were computed in exact steps count.
        """
        node = self._roots.get(scope)
        if node is None:
            return 0, None
        depth = 0
        while True:
            n_best, best = 0, None
            for child in node.children:
                if child.exact or not exact:
                    n_same = common_prefix(child.tokens, tokens, depth)
                    if n_same > n_best:
                        n_best, best = n_same, child
            if best is None:
                break
            node = best
            depth += n_best
            if n_best < len(node.tokens):
                break
        return (depth, _any_slot(node)) if depth else (0, None)

    def match_end(self, scope: str, tokens: list[int], *, exact: bool) -> tuple[int, int | None]:
        """As :meth:`match`, but the slot holds nothing behind that prefix."""
        n_best, best = 0, None
        unseen = [(self._roots[scope], 0)] if scope in self._roots else []
        while unseen:
            node, depth = unseen.pop()
            if depth > n_best and node.slots:
                n_best, best = depth, next(iter(node.slots))
            for child in node.children:
                if child.exact or not exact:
                    n_tokens = len(child.tokens)
                    if common_prefix(child.tokens, tokens, depth) == n_tokens:
                        unseen.append((child, depth + n_tokens))
        return n_best, best

    def beside(self, slot: int) -> set[int]:
        """The other slots that hold the same tokens as ``slot``, in the same cells."""
        return self._ends[slot].slots - {slot}

    def ends_on_the_way(self, slot: int, start: int) -> set[int]:
        """The other slots that end within what ``slot`` holds, behind its first ``start`` tokens."""
        found: set[int] = set()
        depth = len(self.tokens(slot))
        node: Node | None = self._ends[slot]
        while node is not None and depth > start:
            found |= node.slots
            depth -= len(node.tokens)
            node = node.parent
        return found - {slot}

    def is_continued(self, slot: int) -> bool:
        """Whether another slot holds all that ``slot`` does, in the same cells."""
        end = self._ends[slot]
        return bool(end.children) or len(end.slots) > 1

    def fork(self, slot: int, source: int, n_tokens: int) -> None:
        """Starts ``slot`` with the first ``n_tokens`` tokens of ``source``, sharing their cells."""
        path = []
        node: Node | None = self._ends[source]
        while node is not None:
            path.append(node)
            node = node.parent
        depth = 0
        for node in reversed(path):
            if depth + len(node.tokens) >= n_tokens:
                if depth + len(node.tokens) > n_tokens:
                    node = _split(node, n_tokens - depth)
                self._place(slot, node)
                return
            depth += len(node.tokens)
        raise ValueError(f"slot {source} holds {depth} tokens, not {n_tokens}")

    def append(self, slot: int, tokens: list[int], *, exact: bool) -> None:
        """Adds tokens that were computed behind those that ``slot`` holds."""
        end = self._ends[slot]
        is_own = len(end.slots) == 1 and not end.children and end.parent is not None
        if is_own and end.exact == exact:
            end.tokens += tokens
        else:
            child = Node(list(tokens), end, exact=exact)
            end.children.append(child)
            end.slots.discard(slot)
            self._place(slot, child)
        self.n_cells += len(tokens)

    def release(self, slot: int) -> None:
        """Forgets ``slot``; cells that no other slot holds are free again."""
        node = self._ends.pop(slot)
        node.slots.discard(slot)
        while not node.slots and not node.children:
            parent = node.parent
            if parent is None:
                self._roots = {scope: root for scope, root in self._roots.items() if root is not node}
                return
            parent.children.remove(node)
            self.n_cells -= len(node.tokens)
            node = parent

    def tokens(self, slot: int) -> list[int]:
        """All tokens that ``slot`` holds."""
        runs = []
        node: Node | None = self._ends[slot]
        while node is not None:
            runs.append(node.tokens)
            node = node.parent
        return [token for run in reversed(runs) for token in run]

    def n_held(self, slots: set[int]) -> int:
        """How many cells ``slots`` hold together; shared ones count once."""
        nodes = set()
        for slot in slots:
            node: Node | None = self._ends[slot]
            while node is not None and node not in nodes:
                nodes.add(node)
                node = node.parent
        return sum(len(node.tokens) for node in nodes)

    def slots(self) -> set[int]:
        return set(self._ends)

    def _place(self, slot: int, node: Node) -> None:
        node.slots.add(slot)
        self._ends[slot] = node


def common_prefix(run: list[int], tokens: list[int], start: int) -> int:
    """How many tokens of ``run`` agree with ``tokens`` from ``start`` on."""
    n_max = min(len(run), len(tokens) - start)
    if n_max <= 0 or run[0] != tokens[start]:  # most runs have nothing in common
        return 0
    if run[:n_max] == tokens[start : start + n_max]:
        return n_max
    return next(i for i in range(n_max) if run[i] != tokens[start + i])


def _any_slot(node: Node) -> int:
    while not node.slots:
        node = node.children[0]
    return next(iter(node.slots))


def _split(node: Node, n_upper: int) -> Node:
    """Cuts ``node`` in two; returns the upper part, which holds its first ``n_upper`` tokens."""
    parent = node.parent
    assert parent is not None
    upper = Node(node.tokens[:n_upper], parent, exact=node.exact)
    upper.children.append(node)
    parent.children[parent.children.index(node)] = upper
    node.tokens = node.tokens[n_upper:]
    node.parent = upper
    return upper
