"""What the server needs of a network. wiring joins the two."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from plural.agents import Budget
from plural.protocols import Speaker
from plural.specialists import Library
from plural.teams.drafting import Draft, Missing
from plural.teams.journal import Journal
from plural.types import Asked, Event, Message


@dataclass(frozen=True, slots=True)
class Model:
    """A model id, and what stands behind it. `digest` is the adapter's, or the base's."""

    id: str
    created: int
    digest: str
    purpose: str
    parent: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A specialist to be trained. `settings` are the trainer's by their names; `rate` times its learning rate.

    With `resume` an interrupted training goes on.
    """

    name: str
    data: Path
    test: Path | None = None
    purpose: str = ""
    instructions: str = ""
    checker: str = "exact"
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    replace: bool = False
    resume: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"data": str(self.data), "test": self.test and str(self.test)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Lesson:
        test = Path(kept["test"]) if kept["test"] else None
        return cls(**{**kept, "data": Path(kept["data"]), "test": test})


@dataclass(frozen=True, slots=True)
class News:
    """What a training says of itself."""

    message: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunOrder:
    """What shall be worked on, and by whom: a model id, or a `team` of the client's own. `client` is its key's id.
    With `approve` a person is asked about the plan before it is carried out."""

    model: str
    messages: tuple[Message, ...]
    team: Draft | None
    metadata: Mapping[str, str]
    client: str | None
    budget: Budget = Budget()
    approve: bool = False


class Runner(Protocol):
    """Runs in a journal, and the teams that are kept for them."""

    journal: Journal

    def enter(self, order: RunOrder) -> str:
        """A new run, which nobody works on yet.

        Raises SpecialistError for a model id that nobody has, another UserError for what cannot be worked on.
        """
        ...

    def resume(self, run: str) -> AsyncIterator[Event]:
        """All of a run's events, those from before first. Raises RunError for one that cannot be gone on with here."""
        ...

    def check_speaker(self, name: str) -> None:
        """Raises SpecialistError for a name that cannot go on with a fork."""
        ...

    def teams(self) -> Mapping[str, Draft]: ...

    def save_team(self, name: str, team: Draft) -> None:
        """Raises PlanError for one that cannot be carried out here."""
        ...

    def drop_team(self, name: str) -> None:
        """Raises SpecialistError for a name that no team has."""
        ...

    async def draft(self, task: str, *, by: str, settle: bool, budget: Budget) -> Draft | Missing: ...


class Backend(Protocol):
    """Everything is called on the server's event loop; what may take long is awaited."""

    library: Library
    # None where no journal is kept.
    runner: Runner | None
    # The base: its model id, name and digest, the tokens of one sequence at most, and of one answer by default.
    base_id: str
    base_name: str
    digest: str
    context: int
    max_tokens: int

    @property
    def shelves(self) -> Sequence[Path]:
        """An adapter may be lent from folders under these."""
        ...

    def models(self) -> Sequence[Model]:
        """Every id that can be asked, but for mixtures and versions."""
        ...

    def model(self, name: str) -> Model:
        """Raises SpecialistError for an id that nobody has."""
        ...

    def speaker(self, name: str) -> Speaker:
        """A specialist, one of its versions ("cron@2"), a mixture ("cron:0.7+home:0.3"), the base or the network.

        Raises SpecialistError for an id that nobody has.
        """
        ...

    async def score(self, name: str, texts: Sequence[str | Sequence[int]]) -> list[Sequence[tuple[int, float | None]]]:
        """Of each text its tokens, each with its log-probability given those before it; the first one has none.

        Raises SpecialistError for an id that nobody has, SettingsError for one that has no tokens of its own.
        """
        ...

    async def count(self, name: str, asked: Asked) -> int:
        """The tokens of the prompt. Raises what `score` raises, and what is wrong with what is asked."""
        ...

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> tuple[list[list[float]], int]:
        """The base's mean hidden state over each text, at unit norm, and how many tokens were read."""
        ...

    def stats(self) -> Mapping[str, float]:
        """What the engine counts, by its name in `EngineStats`."""
        ...

    async def lend(self, name: str, path: Path, *, replace: bool) -> Model:
        """Serves the adapter in `path` as `name` until it is taken back, without publishing it."""
        ...

    def take_back(self, name: str) -> None:
        """Raises SpecialistError for a name under which nothing was lent."""
        ...

    async def pin(self, name: str) -> None:
        """Keeps a specialist's adapter in memory."""
        ...

    async def unpin(self, name: str) -> None: ...

    async def publish(self, name: str, what: int | Path, *, force: bool) -> Mapping[str, Any]:
        """Lets `name` stand for one of its kept versions, or for the adapter and card of a directory as a new one, if
        that is shown to be not worse; the facts of that.

        Raises SpecialistError if it is not; an adapter is then kept as a version.
        """
        ...

    def rollback(self, name: str) -> Model: ...

    async def remove(self, name: str) -> None:
        """Takes a specialist out of the library, with all its versions.

        Raises SpecialistError for one that is not there, is the starter library's, or was lent.
        """
        ...

    def train(self, lesson: Lesson) -> Iterator[News]:
        """Raises what is wrong with the lesson at once; the iterator, which blocks, is for another thread. Leaving it
        ends the training. Afterwards the specialist is in the library and served."""
        ...
