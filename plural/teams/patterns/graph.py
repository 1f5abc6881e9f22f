"""A graph of members: branches at once, conditions, joins, and loops that have a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from plural.errors import PlanError
from plural.teams.patterns.state import Assignment, Finish, Next, Pattern, Speak, State, Turn

Join = Literal["all", "any"]


@dataclass(frozen=True, slots=True)
class Edge:
    """From one member to the next, taken when `when` says so of what was said (always, without). An edge that leads
    back makes a loop and needs a `limit`: how often it may be taken."""

    source: str
    target: str
    when: Callable[[Turn], bool] | None = None
    limit: int | None = None


def graph(edges: Iterable[Edge | tuple[str, str]], *, joins: Mapping[str, Join] | None = None) -> Pattern:
    """Members begin when what leads to them is done, all that can at once. A member reads the task and what those
    before it said.

    A branch that is not taken counts as done for a join; a member that no taken edge leads to is left out. An edge with
    a limit leads back: its target and what follows from it are done again. The answer is what the last members said,
    those from whom no taken edge goes on.

    Args:
        joins: "all" (the default) waits for all edges that lead to the member, "any" for the first that is taken.

    Raises:
        PlanError: no edges, a cycle without a limit, nobody to begin with, a limit below 1, or joins of nobody.
    """
    known = tuple(edge if isinstance(edge, Edge) else Edge(*edge) for edge in edges)
    ahead = [edge for edge in known if edge.limit is None]
    nodes = tuple(dict.fromkeys(name for edge in known for name in (edge.source, edge.target)))
    _check(known, ahead, nodes, joins or {})

    def next_(state: State) -> Next:
        walk = _Walk(nodes, known, joins or {})
        for at, turn in enumerate(state.turns):
            walk.done(at, turn)
        if walk.ready:
            return Speak(tuple(Assignment(name, reads=walk.read_by(name)) for name in walk.ready))
        return Finish("\n".join(state.turns[at].text for at in walk.ends()))

    tells = tuple((edge.source, edge.target, edge.when is not None or edge.limit is not None) for edge in known)
    return Pattern("graph", next_, nodes, tells=tells)


@dataclass(slots=True)
class _Walk:
    """Where the work stands after some turns. An edge is taken (True), passed by (False), or open (absent)."""

    nodes: Sequence[str]
    edges: Sequence[Edge]
    joins: Mapping[str, Join]
    ready: list[str] = field(default_factory=list)
    said: dict[str, int] = field(default_factory=dict)  # its last turn
    _over: set[str] = field(default_factory=set)  # done, and not opened again since
    _taken: dict[Edge, bool] = field(default_factory=dict)
    _times: dict[Edge, int] = field(default_factory=dict)
    _left_out: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ready = [name for name in self.nodes if not self._leading_to(name)]

    def done(self, at: int, turn: Turn) -> None:
        self.ready.remove(turn.agent)
        self.said[turn.agent] = at
        self._over.add(turn.agent)
        back = None
        for edge in self.edges:
            if edge.source != turn.agent:
                continue
            taken = edge.when is None or edge.when(turn)
            if edge.limit is None:
                self._taken[edge] = taken
            elif taken and self._times.get(edge, 0) < edge.limit:
                self._times[edge] = self._times.get(edge, 0) + 1
                back = edge
        if back is not None:
            self._again(back.target)
        self._settle()

    def read_by(self, name: str) -> tuple[int, ...]:
        """The turns of those who lead to it, or back to it, and what it said before, in order."""
        sources = [name, *(edge.source for edge in self.edges if edge.target == name and self._leads(edge))]
        return tuple(sorted({self.said[source] for source in sources if source in self.said}))

    def ends(self) -> list[int]:
        going_on = {edge.source for edge, taken in self._taken.items() if taken}
        return sorted(self.said[name] for name in self._over - going_on)

    def _leads(self, edge: Edge) -> bool:
        return self._taken.get(edge, False) if edge.limit is None else self._times.get(edge, 0) > 0

    def _leading_to(self, name: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.target == name and edge.limit is None]

    def _leading_from(self, name: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.source == name and edge.limit is None]

    def _again(self, name: str) -> None:
        """Opens everything that follows from `name` anew; it is ready at once."""
        after, found = [name], {name}
        while after:
            for edge in self._leading_from(after.pop()):
                self._taken.pop(edge, None)
                if edge.target not in found:
                    found.add(edge.target)
                    after.append(edge.target)
        self._left_out -= found
        self._over -= found
        self.ready = [*(each for each in self.ready if each not in found), name]

    def _settle(self) -> None:
        """Who may begin now, and who is left out, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for name in self.nodes:
                leading = self._leading_to(name)
                if not leading or name in self.ready or name in self._left_out | self._over:
                    continue
                marks = [self._taken.get(edge) for edge in leading]
                enough = any(marks) if self.joins.get(name) == "any" else None not in marks and any(marks)
                if enough:
                    self.ready.append(name)
                elif all(mark is False for mark in marks):
                    self._left_out.add(name)
                    self._taken.update({edge: False for edge in self._leading_from(name)})
                    changed = True


def _check(known: Sequence[Edge], ahead: Sequence[Edge], nodes: Sequence[str], joins: Mapping[str, Join]) -> None:
    if not known:
        raise PlanError("The graph has no edges.", hint="For one member use round_robin.")
    for edge in known:
        if edge.limit is not None and edge.limit < 1:
            raise PlanError(f"The edge {edge.source} -> {edge.target} has the limit {edge.limit}.", hint="At least 1.")
    for name, join in joins.items():
        if name not in nodes or join not in ("all", "any"):
            raise PlanError(f"joins says {name!r}: {join!r}.", hint=f"Members: {', '.join(nodes)}; all or any.")
    left = set(nodes)
    while free := {name for name in left if not any(edge.target == name and edge.source in left for edge in ahead)}:
        left -= free
    if left:
        raise PlanError(
            f"{' and '.join(sorted(left))} are in a cycle without a limit, or follow from one.",
            hint="Give the edge that leads back a limit.",
        )
