"""Runs and what happens in them, as they are written on the wire: JSON, and server-sent events by entry number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plural import errors
from plural.errors import PluralError
from plural.teams import Cost, costs
from plural.teams.journal import RunInfo, is_shown, open_questions, shown
from plural.teams.journal.entries import Answered, Cancelled, Entry, ModelCalled, Resumed, RunFailed, RunStarted
from plural.types import Event, Question, RunFinished, TextDelta, event_to_json

KEEP_ALIVE = b": still here\n\n"
_PREFIX = "run_"


class Teller:
    """What the entries of one run say to a client. It has to be told all of them, in order."""

    def __init__(self) -> None:
        # Texts of each model call that is not known to be whole, by the call and by its path.
        self._said: dict[tuple[str, int], list[int]] = {}
        self._last: dict[str, list[int]] = {}

    def tell(self, entry: Entry) -> dict[str, Any] | None:
        """None for what only the journal needs. `Retracted` names texts that were said in a call that is made again."""
        match entry.what:
            case ModelCalled(call):
                void = self._said.get((entry.path, call), [])
                self._last[entry.path] = self._said[entry.path, call] = []
                return self._line(entry, {"event": "Retracted", "entries": void}) if void else None
            case RunFailed() as failed:
                return self._line(entry, self._failed(failed))
            case RunStarted() as started:
                return self._line(entry, {"event": "RunStarted", **_begun(started)})
            case Resumed():
                return self._line(entry, {"event": "Resumed"})
            case Answered(question, answer):
                return self._line(entry, {"event": "Answered", "question": question, "answer": answer})
            case Cancelled(why):
                return self._line(entry, {"event": "Cancelled", "why": why})
        if not isinstance(entry.what, Event) or not is_shown(entry):
            return None
        if isinstance(entry.what, TextDelta) and entry.path in self._last:
            self._last[entry.path].append(entry.seq)
        return self._line(entry, event_to_json(entry.what))

    def _line(self, entry: Entry, said: Mapping[str, Any]) -> dict[str, Any]:
        return {"seq": entry.seq, "at": entry.at, **said}

    def _failed(self, failed: RunFailed) -> dict[str, Any]:
        void = [seq for key in failed.fatal for seq in self._said.get(key, ())]
        return {"event": "RunFailed", **error_json(failed), "retracted": void}


def _begun(started: RunStarted) -> dict[str, Any]:
    """What a client may know of it: not how this server makes again what works on it."""
    target = started.target
    return {"model": model_of(target), "with": target.get("with"), "input": started.input}


def model_of(target: Mapping[str, Any]) -> str:
    """Runs that were begun at a terminal say it otherwise."""
    return str(target.get("model") or target.get("to") or target.get("name") or target.get("kind") or "")


def error_json(failed: RunFailed) -> dict[str, str]:
    """Our own errors are written to be read; of others only the log has the details."""
    kind = getattr(errors, failed.error, None)
    ours = isinstance(kind, type) and issubclass(kind, PluralError)
    return {"error": failed.error, "message": failed.message if ours else "Something went wrong in the server."}


def sse(line: Mapping[str, Any]) -> bytes:
    """The entry's number is the event's id, so that a client that comes again says what it has."""
    number = f"id: {line['seq']}\n" if "seq" in line else ""
    return f"{number}event: {line['event']}\ndata: {json.dumps(line, default=str)}\n\n".encode()


# Nothing more will come until somebody answers.
WAITS: Mapping[str, Any] = {"event": "waits"}


def end(status: str) -> dict[str, Any]:
    """Nothing more will come while the run is so."""
    return {"event": "end", "status": status}


def question_json(seq: int, question: Question) -> dict[str, Any]:
    return {"id": seq, **{key: value for key, value in event_to_json(question).items() if key != "event"}}


def run_json(info: RunInfo, target: Mapping[str, Any], *, status: str = "") -> dict[str, Any]:
    return {
        "id": id_of(info.id),
        "object": "run",
        "created_at": info.started,
        "changed_at": info.changed,
        "status": status or info.status,
        "model": model_of(target),
        "with": target.get("with"),
        "title": info.title,
        "parent": None if info.parent is None else id_of(info.parent),
        "forked_at": info.forked_at,
        "metadata": target.get("metadata", {}),
    }


def whole_json(info: RunInfo, target: Mapping[str, Any], known: Sequence[Entry], *, status: str = "") -> dict[str, Any]:
    """With what it came to, or what it waits for."""
    ended = _last(known, RunFinished)
    failed = _last(known, RunFailed) if info.status == "failed" else None
    questions = open_questions(known) if info.status == "waiting" else []
    return run_json(info, target, status=status) | {
        "last_entry": known[-1].seq,
        "questions": [question_json(seq, question) for seq, question in questions],
        "answer": ended and ended.answer,
        "usage": ended and _usage(Cost(ended.usage, ended.money)),
        "costs": {who: _usage(cost) for who, cost in costs(shown(known)).items()},
        "error": failed and error_json(failed),
    }  # fmt: skip


def _usage(cost: Cost) -> dict[str, Any]:
    usage = cost.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "cached_tokens": usage.cached,
        "money": cost.money,
    }


def id_of(run: str) -> str:
    return _PREFIX + run


def run_of(id: str) -> str:
    """The journal's name of a run; "" for what is no run's id."""
    return id.removeprefix(_PREFIX) if id.startswith(_PREFIX) else ""


def _last(known: Iterable[Entry], kind: type[Any]) -> Any:
    found = [entry.what for entry in known if isinstance(entry.what, kind)]
    return found[-1] if found else None
