"""A2A's tasks as runs: each operation of the protocol, by the sdk's types. Imported when the first one is asked for."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from a2a.server.request_handlers import RequestHandler
from a2a.types import (
    Artifact,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    Message,
    Part,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    ExtendedAgentCardNotConfiguredError,
    InternalError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from plural.errors import RunError, UserError
from plural.serve.backend import RunOrder
from plural.serve.errors import WireError, described
from plural.serve.run_wire import error_json, id_of, whole_json
from plural.serve.running import OVER, Runs
from plural.serve.runs import client_of, clients_of
from plural.teams.journal import RunInfo
from plural.teams.journal.entries import RunFailed
from plural.types import Message as Said

_CONTEXT = "a2a_context"  # in a run's metadata
_TEXT = "text/plain"
_STATES = {
    "queued": TaskState.TASK_STATE_SUBMITTED,
    "running": TaskState.TASK_STATE_WORKING,
    "interrupted": TaskState.TASK_STATE_WORKING,
    "waiting": TaskState.TASK_STATE_INPUT_REQUIRED,
    "finished": TaskState.TASK_STATE_COMPLETED,
    "failed": TaskState.TASK_STATE_FAILED,
    "cancelled": TaskState.TASK_STATE_CANCELED,
}
# What a client is told of while it waits: who does what. Texts are left out; the answer is an artifact.
_TOLD = ("Routed", "Planned", "Decided", "StepStarted", "ToolCalled", "ToolReturned", "StepFinished")
_MOST = 100


class Tasks(RequestHandler):  # type: ignore[misc]  # the sdk's types are generated
    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    # -------------------------------------------------------------------------------------------------- what is asked
    async def on_message_send(self, params: SendMessageRequest, context: Any) -> Task:
        with _translated():
            info = await self._heard(params, context)
            if not params.configuration.return_immediately:
                async for _ in self._until_it_stops(info, -1):
                    pass
            return self._task(self._runs.journal.find(info.id))

    async def on_message_send_stream(self, params: SendMessageRequest, context: Any) -> AsyncGenerator[Any, None]:
        with _translated():
            seen = -1
            if params.message.task_id:
                *_, last = self._runs.journal.entries(self._find(params.message.task_id, context).id)
                seen = last.seq
            info = await self._heard(params, context)
            async for update in self._updates(info, seen):
                yield update

    async def on_subscribe_to_task(self, params: SubscribeToTaskRequest, context: Any) -> AsyncGenerator[Any, None]:
        with _translated():
            info = self._find(params.id, context)
            if self._runs.status(info) in OVER:
                raise UnsupportedOperationError(f"The task is {info.status}.")
            *_, last = self._runs.journal.entries(info.id)
            async for update in self._updates(info, last.seq):
                yield update

    async def on_get_task(self, params: GetTaskRequest, context: Any) -> Task:
        with _translated():
            return self._task(self._find(params.id, context))

    async def on_list_tasks(self, params: ListTasksRequest, context: Any) -> ListTasksResponse:
        with _translated():
            clients = clients_of(context.state["key"])
            start = self._runs.of(params.page_token, clients) if params.page_token else None
            size = min(params.page_size or 50, _MOST)
            if params.HasField("status_timestamp_after") or params.status or params.context_id:
                raise UnsupportedOperationError("Tasks are listed newest first, without a filter.")
            found = self._runs.journal.runs(clients=clients, after=start, limit=size + 1)
            more = id_of(found[size - 1].id) if len(found) > size else ""
            return ListTasksResponse(
                tasks=[self._task(one) for one in found[:size]],
                next_page_token=more,
                page_size=size,
                total_size=len(self._runs.journal.runs(clients=clients)),
            )

    async def on_cancel_task(self, params: CancelTaskRequest, context: Any) -> Task:
        with _translated():
            info = self._find(params.id, context)
            if self._runs.status(info) in OVER:
                raise TaskNotCancelableError(f"The task is {info.status}.")
            await self._runs.cancel(info, "An agent cancelled it.")
            return self._task(self._runs.journal.find(info.id))

    # Nobody is called back: an address to call would be the client's word.
    async def on_create_task_push_notification_config(self, params: Any, context: Any) -> Any:  # noqa: ARG002
        raise PushNotificationNotSupportedError

    on_get_task_push_notification_config = on_create_task_push_notification_config
    on_list_task_push_notification_configs = on_create_task_push_notification_config
    on_delete_task_push_notification_config = on_create_task_push_notification_config

    async def on_get_extended_agent_card(self, params: Any, context: Any) -> Any:  # noqa: ARG002
        raise ExtendedAgentCardNotConfiguredError

    # --------------------------------------------------------------------------------------------------------- inside
    def _find(self, id: str, context: Any) -> RunInfo:
        try:
            return self._runs.of(id, clients_of(context.state["key"]))
        except WireError as error:
            raise TaskNotFoundError(error.message) from None

    async def _heard(self, params: SendMessageRequest, context: Any) -> RunInfo:
        """The run that a message begins, or whose question it answers."""
        message, text = params.message, _text(params)
        if message.task_id:
            info = self._find(message.task_id, context)
            asked = self._task_json(info)["questions"]
            if not asked:
                raise UnsupportedOperationError("The task asks nothing.")
            await self._runs.answer(info, asked[0]["id"], text)
            return self._runs.journal.find(info.id)
        about = {_CONTEXT: message.context_id or secrets.token_hex(8)}
        if len(about[_CONTEXT]) > 512:
            raise InvalidParamsError("context_id is longer than 512 letters.")
        key = context.state["key"]
        return self._runs.start(
            RunOrder(context.tenant or "network", (Said("user", text),), None, about, client_of(key))
        )

    async def _until_it_stops(self, info: RunInfo, after: int) -> AsyncGenerator[Mapping[str, Any], None]:
        """What happens until the run is over or asks a person."""
        async for line in self._runs.lines(info, after):
            if line is not None and line["event"] == "waits":
                return
            if line is not None:
                yield line

    async def _updates(self, info: RunInfo, after: int) -> AsyncGenerator[Any, None]:
        task = self._task(info)
        yield task
        of = {"task_id": task.id, "context_id": task.context_id}
        async for line in self._until_it_stops(info, after):
            if line["event"] in _TOLD:
                told = _message(task, data=line)
                status = TaskStatus(state=TaskState.TASK_STATE_WORKING, message=told)
                yield TaskStatusUpdateEvent(status=status, **of)
        now = self._task(self._runs.journal.find(info.id))
        for artifact in now.artifacts:
            yield TaskArtifactUpdateEvent(artifact=artifact, last_chunk=True, **of)
        yield TaskStatusUpdateEvent(status=now.status, **of)

    def _task_json(self, info: RunInfo) -> dict[str, Any]:
        journal = self._runs.journal
        known = list(journal.entries(info.id))
        whole = whole_json(info, journal.target(info.id), known, status=self._runs.status(info))
        failures = [error_json(entry.what)["message"] for entry in known if isinstance(entry.what, RunFailed)]
        return whole | {"said": failures[-1] if failures and whole["status"] == "failed" else ""}

    def _task(self, info: RunInfo) -> Task:
        run = self._task_json(info)
        task = Task(id=run["id"], context_id=run["metadata"].get(_CONTEXT, run["id"]))
        task.status.state = _STATES[run["status"]]
        task.status.timestamp.FromNanoseconds(int(run["changed_at"] * 1e9))
        if run["questions"]:
            asked = run["questions"][0]
            task.status.message.CopyFrom(_message(task, asked["text"], data=asked))
        elif run["said"]:
            task.status.message.CopyFrom(_message(task, run["said"]))
        if run["answer"] is not None:
            task.artifacts.append(Artifact(artifact_id="answer", name="answer", parts=[Part(text=run["answer"])]))
        return task


def _text(params: SendMessageRequest) -> str:
    """What the message says. Raises A2AError for all that is not honoured."""
    message, wanted = params.message, params.configuration
    if message.role != Role.ROLE_USER:
        raise InvalidParamsError("The message's role must be ROLE_USER.")
    if wanted.HasField("task_push_notification_config"):
        raise PushNotificationNotSupportedError
    if wanted.accepted_output_modes and _TEXT not in wanted.accepted_output_modes:
        raise ContentTypeNotSupportedError(f"Answers are {_TEXT}.")
    if message.reference_task_ids:
        raise UnsupportedOperationError("A message refers to no other task.")
    if any(part.WhichOneof("content") != "text" for part in message.parts):
        raise ContentTypeNotSupportedError("Only text is read.")
    text = "\n".join(part.text for part in message.parts)
    if not text.strip():
        raise InvalidParamsError("The message says nothing.")
    return text


def _message(task: Task, text: str = "", *, data: Any = None) -> Message:
    parts = [Part(text=text)] if text else []
    if data is not None:
        parts.append(Part(data=ParseDict(data, Value())))
    return Message(
        message_id=secrets.token_hex(8),
        task_id=task.id,
        context_id=task.context_id,
        role=Role.ROLE_AGENT,
        parts=parts,
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Our errors as the protocol's; of all others nothing is told."""
    try:
        yield
    except (A2AError, GeneratorExit):
        raise
    except RunError as error:
        raise UnsupportedOperationError(str(error)) from error
    except UserError as error:
        raise InvalidParamsError(str(error)) from error
    except Exception as error:
        raise InternalError(described(error)[1]) from error
