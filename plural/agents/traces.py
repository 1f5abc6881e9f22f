"""Traces: OpenTelemetry spans of runs, steps, agents, model calls and tools, by the GenAI conventions' names.

They come from LangChain's callbacks, so anything that is a Runnable is in them. No texts are: neither what was asked
nor what was answered. Without OpenTelemetry (`pip install plural[traces]`) nothing here can be used, and nothing else
needs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_async_callback_manager_for_config, merge_configs, patch_config

from plural.agents.waiting import Waiting
from plural.errors import SettingsError
from plural.types import Event, RunFinished

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

AGENT, STEP, WORKFLOW = "plural_agent", "plural_step", "plural_workflow"  # in a config's metadata


def about(config: RunnableConfig | None, **said: Any) -> RunnableConfig:
    """A config whose traces say of the work that begins with it what it is."""
    known: RunnableConfig = config or {}
    return {**known, "metadata": {**(known.get("metadata") or {}), **said}}


@asynccontextmanager
async def in_step(number: int, config: RunnableConfig) -> AsyncIterator[RunnableConfig]:
    """The config of what is done in a step of a team or a plan: its spans are under that of the step."""
    manager = get_async_callback_manager_for_config(about(config, **{STEP: number}))
    run = await manager.on_chain_start(None, {}, name=f"step {number}")
    try:
        yield patch_config(config, callbacks=run.get_child())
    except BaseException as error:
        await run.on_chain_error(error)
        raise
    await run.on_chain_end({})


class Traces(BaseCallbackHandler):
    """Give it to any Runnable: `agent.invoke(task, {"callbacks": [Traces()]})`.

    Args:
        provider: where spans go to; the process's own if left out.
        within: the context they are under; that of the caller if left out.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """

    run_inline = True  # in the order in which things happen

    def __init__(self, provider: TracerProvider | None = None, within: Context | None = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise SettingsError("There is no OpenTelemetry.", hint="pip install 'plural[traces]'") from error
        self._trace, self._provider, self._within = trace, provider, within
        self._tracer = trace.get_tracer("plural", tracer_provider=provider)
        self._open: dict[UUID, Span] = {}

    async def run(
        self, name: str, work: Callable[[RunnableConfig], AsyncIterator[Event]], config: RunnableConfig | None = None
    ) -> AsyncIterator[Event]:
        """The events of a run, all of whose spans are under its own."""
        span = self._tracer.start_span(f"invoke_workflow {name}", context=self._within)
        span.set_attributes({"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": name})
        inside = Traces(self._provider, self._trace.set_span_in_context(span, self._within))
        try:
            async for event in work(merge_configs(config, {"callbacks": [inside]})):
                if isinstance(event, RunFinished):
                    span.set_attributes(_tokens(event.usage.prompt, event.usage.completion, event.usage.cached))
                yield event
        except Exception as error:
            self._failed(span, error)
            raise
        finally:
            span.end()

    # ------------------------------------------------------------------------------------------ LangChain's callbacks
    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **told: Any) -> None:  # noqa: ARG002
        name, metadata = told.get("name") or "chain", told.get("metadata") or {}
        if metadata.get(AGENT) == name:
            said = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
            self._start(run_id, told, f"invoke_agent {name}", {**said, "plural.step": metadata.get(STEP, 0)})
        elif metadata.get(WORKFLOW) == name:
            said = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": name}
            self._start(run_id, told, f"invoke_workflow {name}", said)
        elif name == f"step {metadata.get(STEP)}":
            self._start(run_id, told, name, {"plural.step": metadata[STEP]})
        else:
            self._start(run_id, told, name, {})

    def on_chat_model_start(
        self,
        serialized: Any,  # noqa: ARG002 - LangChain's signature
        messages: Sequence[Sequence[BaseMessage]],  # noqa: ARG002
        *,
        run_id: UUID,
        **told: Any,
    ) -> None:
        metadata = told.get("metadata") or {}
        model = str(metadata.get("ls_model_name") or metadata.get("ls_provider") or "model")
        said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model}
        said["gen_ai.provider.name"] = str(metadata.get("ls_provider") or "plural")
        self._start(run_id, told, f"chat {model}", said)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **told: Any) -> None:  # noqa: ARG002
        name = told.get("name") or (serialized or {}).get("name") or "tool"
        said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        said["gen_ai.tool.call.id"] = str(told.get("tool_call_id") or "")
        self._start(run_id, told, f"execute_tool {name}", said)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        message = generation.message if isinstance(generation, ChatGeneration) else None
        if isinstance(message, AIMessage) and (counted := message.usage_metadata):
            cached = counted.get("input_token_details", {}).get("cache_read", 0)
            self._say(run_id, _tokens(counted["input_tokens"], counted["output_tokens"], cached))
        if message is not None and (reason := message.response_metadata.get("finish_reason")):
            self._say(run_id, {"gen_ai.response.finish_reasons": [str(reason)]})
        self._end(run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        self._end(run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, error)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._end(run_id, error)

    # ---------------------------------------------------------------------------------------------------------- inside
    def _start(self, run_id: UUID, told: Mapping[str, Any], name: str, attributes: Mapping[str, Any]) -> None:
        above = self._open.get(told.get("parent_run_id") or run_id)
        context = self._trace.set_span_in_context(above, self._within) if above else self._within
        self._open[run_id] = self._tracer.start_span(name, context=context, attributes=dict(attributes))

    def _say(self, run_id: UUID, attributes: Mapping[str, Any]) -> None:
        if span := self._open.get(run_id):
            span.set_attributes(attributes)

    def _end(self, run_id: UUID, error: BaseException | None = None) -> None:
        if (span := self._open.pop(run_id, None)) is None:
            return
        if error is not None and not isinstance(error, Waiting):
            self._failed(span, error)
        span.end()

    def _failed(self, span: Span, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)


def _tokens(read: int, written: int, cached: int) -> dict[str, int]:
    return {
        "gen_ai.usage.input_tokens": read,
        "gen_ai.usage.output_tokens": written,
        "gen_ai.usage.cache_read.input_tokens": cached,
    }
