"""/v1/runs: work that goes on without its client. Started, watched, answered, cancelled, forked, played again."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response

from plural.errors import SpecialistError
from plural.serve.backend import RunOrder
from plural.serve.errors import WireError
from plural.serve.keys import ANYBODY, Key
from plural.serve.run_wire import id_of, run_json, whole_json
from plural.serve.running import OVER, Runs
from plural.serve.service import needs, visit_of
from plural.serve.shapes import ListedRun, Page, Run, sends
from plural.serve.store import page_json
from plural.serve.stream import STREAMED, event_stream
from plural.serve.wire import Metadata, Strict
from plural.teams.drafting import Allowance, Draft
from plural.teams.journal import RunInfo, open_questions
from plural.types import Message, Question

Text = Annotated[str, Field(min_length=1)]
Entry = Annotated[int, Field(ge=0, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=100)]


class RunMessage(Strict):
    role: Literal["system", "user", "assistant"]
    content: Text


def _given(*names: str, no: str) -> dict[str, Any]:
    """The part of a JSON Schema that asks for these properties and forbids another."""
    return {
        "required": [*names],
        "properties": {**{name: {"not": {"type": "null"}} for name in names}, no: {"type": "null"}},
    }


class RunBody(Strict):
    """`model` is any id of /v1/models; or `team` is one of the client's own, as /v1/teams/draft makes them. A team may
    do without `input`: it then works on its own task. `budget` is what the run may cost; with `approve_plan` it waits
    for a person's word on its plan. With `stream` the answer is the run's events."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_given("model", "input", no="team"), _given("team", no="model")]}
    )

    model: Text | None = None
    team: Draft | None = None
    input: Text | Annotated[list[RunMessage], Field(min_length=1, max_length=1024)] | None = None
    metadata: Metadata | None = None
    budget: Allowance = Allowance()
    approve_plan: bool = False
    stream: bool = False

    def order(self, client: str | None) -> RunOrder:
        if (self.model is None) == (self.team is None):
            raise WireError(400, "A run is worked on by a model or a team: give one of the two.", param="model")
        said = [RunMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input or []
        messages = tuple(Message(one.role, one.content) for one in said)
        about = self.metadata or {}
        return RunOrder(self.model or "team", messages, self.team, about, client, self.budget.budget, self.approve_plan)


class _About(Strict):
    """`question` is the number of its entry; it may be left out when only one is asked."""

    question: Entry | None = None


class AnswerBody(_About):
    answer: Annotated[str, Field(max_length=100_000)]


class ApproveBody(_About):
    """`arguments` are to be used in the place of those that were asked for."""

    arguments: dict[str, Any] | None = None


class DenyBody(_About):
    """The model is told the reason."""

    reason: Annotated[str, Field(max_length=10_000)] = ""


class ForkBody(Strict):
    """The fork begins as the run did up to entry `at`, that one included; `with` names who speaks from there on."""

    at: Entry
    with_: Annotated[Text | None, Field(alias="with")] = None


class CancelBody(Strict):
    reason: Annotated[str, Field(max_length=1000)] = ""


def run_routes(runs: Runs) -> APIRouter:
    router = APIRouter(prefix="/v1/runs", dependencies=[needs("use")])

    @router.post("", responses=sends(Run, or_streams=True))
    async def create_run(body: RunBody, request: Request) -> Response:
        try:
            info = runs.start(body.order(client_of(visit_of(request).key)))
        except SpecialistError as error:
            raise WireError(404, str(error), code="model_not_found", param="model") from error
        if body.stream:
            return await event_stream(runs.events(info, -1))
        return JSONResponse(shown(runs, info))

    @router.get("", responses=sends(Page[ListedRun]))
    async def list_runs(request: Request, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        clients = clients_of(visit_of(request).key)
        start = runs.of(after, clients) if after is not None else None
        found = runs.journal.runs(clients=clients, after=start, limit=limit + 1)
        page = [run_json(one, runs.journal.target(one.id), status=runs.status(one)) for one in found[:limit]]
        return page_json(page, len(found) > limit)

    @router.get("/{run_id}", responses=sends(Run))
    async def retrieve_run(run_id: str, request: Request) -> dict[str, Any]:
        return shown(runs, _mine(runs, run_id, request))

    @router.get("/{run_id}/events", responses=_EVENTS)
    async def stream_run_events(
        run_id: str,
        request: Request,
        after: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Everything after the event whose number a client had last. 204 when there is nothing and will be nothing: a
        browser's EventSource then asks no more."""
        info = _mine(runs, run_id, request)
        seen = after if last_event_id is None else _number(last_event_id)
        *_, last = runs.journal.entries(info.id)
        if runs.status(info) in OVER and seen >= last.seq:
            return Response(None, 204)
        return await event_stream(runs.events(info, seen))

    @router.get("/{run_id}/replay", responses=_EVENTS)
    async def replay_run(
        run_id: str, request: Request, speed: Annotated[float, Query(ge=0, le=1000)] = 0.0
    ) -> Response:
        """What was shown, without what was said in vain; at so many times its pace, or at once. Nothing is computed."""
        return await event_stream(runs.replay(_mine(runs, run_id, request), speed))

    return router


def run_control_routes(runs: Runs) -> APIRouter:
    """What changes a run."""
    router = APIRouter(prefix="/v1/runs/{run_id}", dependencies=[needs("use")])

    async def answered(info: RunInfo, question: int, answer: str) -> dict[str, Any]:
        await runs.answer(info, question, answer)
        return shown(runs, runs.journal.find(info.id))

    @router.post("/answer", responses=sends(Run))
    async def answer_question(run_id: str, body: AnswerBody, request: Request) -> dict[str, Any]:
        """Whatever is asked, in words; of a call of which nobody knows: done, repeat, or what it returned."""
        info = _mine(runs, run_id, request)
        seq, _ = _asked(runs, info, body.question)
        return await answered(info, seq, body.answer)

    @router.post("/approve", responses=sends(Run))
    async def approve_call(run_id: str, body: ApproveBody, request: Request) -> dict[str, Any]:
        info = _mine(runs, run_id, request)
        seq = _to_approve(runs, info, body.question)
        return await answered(info, seq, "approve" if body.arguments is None else json.dumps(body.arguments))

    @router.post("/deny", responses=sends(Run))
    async def deny_call(run_id: str, body: DenyBody, request: Request) -> dict[str, Any]:
        info = _mine(runs, run_id, request)
        return await answered(info, _to_approve(runs, info, body.question), f"deny: {body.reason}")

    @router.post("/cancel", responses=sends(Run))
    async def cancel_run(run_id: str, request: Request, body: CancelBody = CancelBody()) -> dict[str, Any]:
        info = _mine(runs, run_id, request)
        if runs.status(info) in OVER:
            raise WireError(409, f"The run is {info.status}.", code="run_error")
        await runs.cancel(info, body.reason or "A client cancelled it.")
        return shown(runs, runs.journal.find(info.id))

    @router.post("/resume", responses=sends(Run))
    async def resume_run(run_id: str, request: Request) -> dict[str, Any]:
        """Goes on with a run that failed, was cancelled or interrupted; nothing that was finished is done again."""
        return shown(runs, runs.resume(_mine(runs, run_id, request)))

    @router.post("/fork", responses=sends(Run))
    async def fork_run(run_id: str, body: ForkBody, request: Request) -> dict[str, Any]:
        info = _mine(runs, run_id, request)
        try:
            return shown(runs, runs.fork(info, body.at, body.with_, client_of(visit_of(request).key)))
        except SpecialistError as error:
            raise WireError(404, str(error), code="model_not_found", param="with") from error

    return router


_EVENTS: dict[int | str, dict[str, Any]] = {**STREAMED, 204: {"description": "Nothing more will come."}}


def client_of(key: Key) -> str | None:
    """Where no key is needed, all runs are the owner's of the machine."""
    return None if key.id == ANYBODY.id else key.id


def clients_of(key: Key) -> tuple[str | None, ...]:
    """Whose runs a key finds: its own, and those that no key began if it may administer."""
    return (client_of(key), None) if "admin" in key.scopes else (client_of(key),)


def shown(runs: Runs, info: RunInfo) -> dict[str, Any]:
    known = list(runs.journal.entries(info.id))
    return whole_json(info, runs.journal.target(info.id), known, status=runs.status(info))


def _mine(runs: Runs, id: str, request: Request) -> RunInfo:
    return runs.of(id, clients_of(visit_of(request).key))


def _asked(runs: Runs, info: RunInfo, number: int | None) -> tuple[int, Question]:
    """The question that is meant. Raises WireError."""
    if runs.status(info) in OVER:
        raise WireError(409, f"The run is {info.status}: resume it first.", code="nothing_asked", param="question")
    asked = open_questions(runs.journal.entries(info.id))
    meant = [one for one in asked if number in (None, one[0])]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        what = "asks nothing" if number is None else f"asks nothing in entry {number}"
        raise WireError(409, f"The run {id_of(info.id)} {what}.", code="nothing_asked", param="question")
    numbers = ", ".join(str(seq) for seq, _ in meant)
    raise WireError(400, f"Several questions are open: name one of {numbers}.", param="question")


def _to_approve(runs: Runs, info: RunInfo, number: int | None) -> int:
    seq, question = _asked(runs, info, number)
    if question.kind != "approval":
        raise WireError(
            409, f"Entry {seq} asks for no approval, but: {question.text}", code="no_approval_asked", param="question"
        )
    return seq


def _number(last_event_id: str) -> int:
    if not last_event_id.isdecimal() or len(last_event_id) > 9:
        raise WireError(400, f"Last-Event-ID is {last_event_id[:40]!r}; events have numbers.", param="Last-Event-ID")
    return int(last_event_id)
