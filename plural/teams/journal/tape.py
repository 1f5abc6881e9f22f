"""What a log knows of a run's past, and where it is written on: finished calls are played back, new ones recorded.

Agents and teams do the same again when they get the same answers. So a run is resumed by doing it again, with every
finished call of a model or a tool answered from here, until the log ends.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from plural import errors
from plural.agents.waiting import Waiting
from plural.errors import MachineError, PluralError, RunError
from plural.teams.journal.entries import (
    Answered,
    Entry,
    Kept,
    ModelCalled,
    ModelFailed,
    ModelReturned,
    Noted,
    RunFailed,
    RunStarted,
    ToolBegun,
)
from plural.types import Event, Question, RunFinished, TextDelta, ToolCall, ToolReturned, event_to_json

DONE, REPEAT = "done", "repeat"


class Log(Protocol):
    @property
    def entries(self) -> Sequence[Entry]: ...

    def append(self, what: Noted, path: str = "", *, firmly: bool = False) -> int: ...


@dataclass(slots=True)
class ModelCallKnown:
    """`message` is None until the call is closed; `error` is (type, message) of one that failed."""

    digest: str
    texts: list[TextDelta] = field(default_factory=list)
    message: Mapping[str, Any] | None = None
    error: tuple[str, str] | None = None


@dataclass(slots=True)
class _Tool:
    begun: ToolBegun
    state: Literal["open", "asked", "free", "done"] = "open"  # free: it may be called again
    result: str = ""
    failed: bool = False


@dataclass(slots=True)
class _Results:
    """Of one turn's calls, as they were written: those whose events have not come yet, and those not shown yet."""

    to_come: list[ToolReturned] = field(default_factory=list)
    to_show: list[ToolReturned] = field(default_factory=list)

    def add(self, written: ToolReturned) -> None:
        self._drop(written.call)
        self.to_come.append(written)
        self.to_show.append(written)

    def next_for(self, event: ToolReturned) -> ToolReturned | None:
        """What is shown when `event` comes; None when it was not written, or what stands around its tool changed it."""
        own = self._of(event.call)
        if own is None or (own.result, own.failed) != (event.result, event.failed):
            self._drop(event.call)
            return None
        self.to_come.remove(own)
        return self.to_show.pop(0)

    def _of(self, call: ToolCall) -> ToolReturned | None:
        return next((one for one in self.to_come if one.call == call), None)

    def _drop(self, call: ToolCall) -> None:
        if own := self._of(call):
            self.to_come.remove(own)
            self.to_show.remove(own if own in self.to_show else self.to_show[0])


class Tape:
    """One run's past and present. With `sealed`, nothing new may happen: everything has to be on it."""

    def __init__(self, log: Log, *, sealed: bool = False) -> None:
        self._log, self._sealed = log, sealed
        self.started: RunStarted | None = None
        self.finished: RunFinished | None = None
        self._models: dict[tuple[str, int], ModelCallKnown] = {}
        self._tools: dict[str, _Tool] = {}
        self._values: dict[str, Kept] = {}
        self._questions: dict[int, tuple[str, Question]] = {}
        self._answers: dict[str, str] = {}
        # Written, and not yet shown by this process: results by (step, agent), all else by what it says.
        self._results: defaultdict[tuple[int, str], _Results] = defaultdict(_Results)
        self._shown: defaultdict[str, deque[Event]] = defaultdict(deque)
        self._visits: Counter[str] = Counter()
        self._last_call: dict[str, ModelCallKnown] = {}
        self._raised: list[tuple[Exception, tuple[str, int]]] = []
        for entry in log.entries:
            self._learn(entry)

    # ------------------------------------------------------------------------------------------------- the past
    def _learn(self, entry: Entry) -> None:
        match entry.what:
            case RunStarted() as started:
                self.started = started
            case RunFinished() as finished:
                self.finished = finished
                self._note(finished)
            case ModelCalled() | TextDelta() | ModelReturned() | ModelFailed() | RunFailed():
                self._learn_of_model(entry.path, entry.what)
            case ToolBegun() | ToolReturned():
                self._learn_of_tool(entry, entry.what)
            case Question() | Answered():
                self._learn_of_person(entry, entry.what)
            case Kept() as value:
                self._values[entry.path] = value
            case what if isinstance(what, Event):
                self._note(what)

    def _learn_of_model(
        self, path: str, what: ModelCalled | TextDelta | ModelReturned | ModelFailed | RunFailed
    ) -> None:
        match what:
            case ModelCalled(call, asked):
                self._last_call[path] = self._models[path, call] = ModelCallKnown(asked)
            case TextDelta() if path in self._last_call:
                self._last_call[path].texts.append(what)
            case TextDelta():
                self._note(what)
            case RunFailed():
                for key in what.fatal:
                    self._models.pop(key, None)
            case _:
                self._close(path, what)

    def _learn_of_tool(self, entry: Entry, what: ToolBegun | ToolReturned) -> None:
        known = self._tools.get(entry.path)
        if isinstance(what, ToolBegun):
            self._tools[entry.path] = _Tool(what)
            return
        if known is not None:
            known.state, known.result, known.failed = "done", what.result, what.failed
        if is_shown(entry):
            self._note(what)

    def _learn_of_person(self, entry: Entry, what: Question | Answered) -> None:
        if isinstance(what, Question):
            self._questions[entry.seq] = entry.path, what
            if entry.path in self._tools:
                self._tools[entry.path].state = "asked"
            return
        path, _ = self._questions.pop(what.question)
        if path not in self._tools:
            self._answers[path] = what.answer
        elif what.answer == REPEAT:
            self._tools[path].state = "free"
        else:
            tool = self._tools[path]
            tool.state, tool.failed = "done", False
            tool.result = "It was done." if what.answer == DONE else what.answer

    def _close(self, path: str, what: ModelReturned | ModelFailed) -> None:
        call = self._models[path, what.call]
        if isinstance(what, ModelReturned):
            call.message = what.message
        else:
            call.error = what.error, what.message
        if "/" not in path:
            for text in call.texts:
                self._note(text)
        del self._last_call[path]

    # --------------------------------------------------------------------------------------- what a person must say
    def questions(self) -> list[Question]:
        """Everything that has to be answered before the run can go on, asked now where it was not asked before."""
        for path, tool in self._tools.items():
            if tool.state == "open" and not tool.begun.repeatable:
                begun = tool.begun
                given = ", ".join(f"{name}={value!r}" for name, value in begun.call.arguments.items())
                text = f"{begun.call.name}({given}) was interrupted. Was it done? Say done, repeat, or its result."
                self._ask(path, Question(begun.step, begun.agent, text, begun.call, "outcome"))
                tool.state = "asked"
        return self.asked()

    def asked(self) -> list[Question]:
        """Those that are open."""
        return [question for _, question in self._questions.values()]

    def ask(self, path: str, question: Question) -> str:
        """A person's answer. Raises Waiting until it is there."""
        if path in self._answers:
            return self._answers[path]
        if path not in {asked for asked, _ in self._questions.values()}:
            self._ask(path, question)
        raise Waiting(question)

    def _ask(self, path: str, question: Question) -> None:
        seq = self._append(question, path, firmly=True)
        self._questions[seq] = path, question

    # ------------------------------------------------------------------------------------------------- models
    def visit(self, path: str) -> str:
        """The path of one more piece of work that would have this path: the second is "path~1"."""
        count = self._visits[path]
        self._visits[path] += 1
        return f"{path}~{count}" if count else path

    def model(self, path: str, call: int, digest: str) -> ModelCallKnown | None:
        """A call that was closed. Raises RunError when it was another one than this."""
        known = self._models.get((path, call))
        if known is None or (known.message is None and known.error is None):
            return None
        if known.digest != digest:
            raise RunError(
                f"Call {call} of {path} asks its model something else than the journal says.",
                hint="The agent, its tools or Plural changed since. Start a new run, or fork this one before it.",
            )
        return known

    def model_called(self, path: str, call: int, digest: str) -> None:
        self._append(ModelCalled(call, digest), path)

    def said(self, path: str, text: TextDelta) -> None:
        self._append(text, path)
        if "/" not in path:
            self._note(text)

    def model_returned(self, path: str, call: int, message: Mapping[str, Any]) -> None:
        self._append(ModelReturned(call, message), path)

    def model_failed(self, path: str, call: int, error: Exception) -> None:
        self._append(ModelFailed(call, type(error).__name__, getattr(error, "message", str(error))), path)
        self._raised.append((error, (path, call)))

    # ------------------------------------------------------------------------------------------------- tools
    def tool(self, path: str, call: ToolCall) -> tuple[str, bool] | None:
        """The result of a call that was finished, and whether it failed. Raises RunError for another call."""
        known = self._tools.get(path)
        if known is None:
            return None
        if (known.begun.call.name, digest(known.begun.call.arguments)) != (call.name, digest(call.arguments)):
            raise RunError(
                f"{path} calls {call.name} where the journal says {known.begun.call.name}, or with other arguments.",
                hint="The agent, its tools or Plural changed since. Start a new run, or fork this one before it.",
            )
        return (known.result, known.failed) if known.state == "done" else None

    def tool_begun(self, path: str, begun: ToolBegun) -> None:
        self._append(begun, path, firmly=not begun.repeatable)
        self._tools[path] = _Tool(begun)

    def tool_returned(self, path: str, returned: ToolReturned) -> None:
        self._append(returned, path)
        if path.count("/") == 1:
            self._note(returned)

    # ------------------------------------------------------------------------------------------------- other values
    def value(self, path: str, about: str) -> Kept | None:
        """Raises RunError when the value in the journal is about something else."""
        known = self._values.get(path)
        if known is not None and known.about != about:
            raise RunError(
                f"{path} decides about something else than the journal says.",
                hint="The team changed since. Start a new run, or fork this one before it.",
            )
        return known

    def decided(self, path: str, value: Kept) -> None:
        self._append(value, path)

    def event(self, event: Event) -> Event:
        """What is shown for `event`: itself, once it is written, or as it was written before. Results of one turn are
        shown in the order in which they were written: played back, they would come in the order of the calls."""
        if isinstance(event, ToolReturned):
            if (next_written := self._results[event.step, event.agent].next_for(event)) is not None:
                return next_written
        elif before := self._shown.get(_mark(event)):
            return before.popleft()
        self._append(event, "")
        return event

    def failed(self, error: BaseException) -> None:
        """The run ends with this error."""
        fatal: list[tuple[str, int]] = []
        cause: BaseException | None = error
        while cause is not None:
            fatal += [key for known, key in self._raised if known is cause]
            cause = cause.__cause__ or cause.__context__
        self._append(RunFailed(type(error).__name__, getattr(error, "message", str(error)), tuple(fatal)))

    # ------------------------------------------------------------------------------------------------- inside
    def _note(self, event: Event) -> None:
        if isinstance(event, ToolReturned):
            self._results[event.step, event.agent].add(event)
        else:
            self._shown[_mark(event)].append(event)

    def _append(self, what: Noted, path: str = "", *, firmly: bool = False) -> int:
        if self._sealed:
            raise RunError(
                f"{path or 'The run'} does something that the journal does not know: {what!r}.",
                hint="It is not what was recorded; or it was recorded only in part: resume it.",
            )
        return self._log.append(what, path, firmly=firmly)


def raised(error: tuple[str, str]) -> Exception:
    """An error as it was recorded: ours as what it was, a foreign one under its name."""
    name, message = error
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, PluralError) and kind is not errors.DataError:
        known: PluralError = kind(message)
        return known
    foreign: MachineError = type(name, (MachineError,), {})(message)
    return foreign


def is_shown(entry: Entry) -> bool:
    """Whether an entry is part of what a user sees: what is asked, and not what agents did that are other agents'
    tools."""
    depth = 1 if isinstance(entry.what, ToolReturned) else 0
    return isinstance(entry.what, Question) or entry.path.count("/") <= depth


def shown(entries: Iterable[Entry]) -> Iterator[Event]:
    """The run as it was shown, without what was said in calls that were then made again, what was asked and is
    answered, and results that were then changed around their tools."""
    for entry in shown_entries(entries):
        assert isinstance(entry.what, Event)  # nothing else is shown
        yield entry.what


def shown_entries(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same, with the entries' numbers and times."""
    known = list(entries)
    void = _void(known) | {entry.what.question for entry in known if isinstance(entry.what, Answered)} | _changed(known)
    for entry in known:
        if isinstance(entry.what, Event) and is_shown(entry) and entry.seq not in void:
            yield entry


def _void(entries: Iterable[Entry]) -> set[int]:
    """The texts of calls that were made again, or that failed and let the run fail."""
    said: dict[tuple[str, int], list[int]] = {}
    last: dict[str, list[int]] = {}
    void: set[int] = set()
    for entry in entries:
        match entry.what:
            case ModelCalled(call):
                void.update(said.get((entry.path, call), ()))
                last[entry.path] = said[entry.path, call] = []
            case TextDelta() if entry.path in last:
                last[entry.path].append(entry.seq)
            case RunFailed(fatal=fatal):
                void.update(seq for key in fatal for seq in said.get(key, ()))
    return void


def _changed(entries: Sequence[Entry]) -> set[int]:
    """The results that were shown as something else."""
    last: dict[tuple[int, str, str], int] = {}
    changed: set[int] = set()
    for entry in entries:
        if isinstance(entry.what, ToolReturned) and is_shown(entry):
            key = entry.what.step, entry.what.agent, entry.what.call.id
            if not entry.path and key in last:
                changed.add(last[key])
            last[key] = entry.seq
    return changed


def digest(value: Any) -> str:
    """Of anything that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _mark(event: Event) -> str:
    """What two showings of one event have in common: all but how long it took and what it cost."""
    if isinstance(event, TextDelta):
        return f"{event.step} {event.agent} {event.text}"
    said = event_to_json(event)
    for varying in ("seconds", "usage", "money"):
        said.pop(varying, None)
    return json.dumps(said, sort_keys=True, default=str)
