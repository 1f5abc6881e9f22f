"""The nouns every room may speak: frozen records without behaviour of their own. No torch, no HTTP, no pydantic.

Events of a run are one closed union (`Event`). A run yields them in order. The last one is `RunFinished`, unless
somebody else has to go on: another agent (`HandedOff`) or a person (`Paused`, and `Question` of a run in a journal).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from plural.errors import GrammarError, SettingsError

T = TypeVar("T")

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


# ---------------------------------------------------------------------------------------------- messages and tools
@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CutCall:
    """A tool call whose end is missing, which is none. `name` is empty if not even that was whole, `arguments` its JSON
    as far as it came, `text` all that was written of it."""

    id: str
    name: str
    arguments: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What a model is told of a tool. `parameters` is the JSON Schema of one object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


# ---------------------------------------------------------------------------------------------- one request
@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `seed` fixes a sampled request whoever else is in its batch."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = 0

    def __post_init__(self) -> None:
        wrong = [
            (self.max_tokens >= 1, "max_tokens", "at least 1"),
            (self.temperature >= 0, "temperature", "at least 0"),
            (0 < self.top_p <= 1, "top_p", "in (0, 1]"),
            (self.top_k >= 0, "top_k", "at least 0 (0 switches it off)"),
            (0 <= self.min_p <= 1, "min_p", "in [0, 1]"),
            (self.repetition_penalty > 0, "repetition_penalty", "above 0"),
            (-2 <= self.presence_penalty <= 2, "presence_penalty", "in [-2, 2]"),
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty", "in [-2, 2]"),
            (0 <= self.logprobs <= 20, "logprobs", "in 0..20"),
            (all(self.stop), "stop", "non-empty strings"),
        ]
        for fine, name, allowed in wrong:
            if not fine:
                raise SettingsError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an output may look like. `source` is the schema or the options as JSON, or the pattern itself."""

    kind: Literal["json_schema", "regex", "choices", "lark"]
    source: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Grammar:
        return cls("json_schema", json.dumps(schema, separators=(",", ":")))

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        return cls("regex", pattern)

    @classmethod
    def choices(cls, options: Sequence[str]) -> Grammar:
        if not options or any(not option for option in options):
            raise GrammarError(f"Choices must be non-empty strings, got {list(options)!r}.")
        if len(set(options)) != len(options):
            raise GrammarError(f"Choices must differ from each other, got {list(options)!r}.")
        return cls("choices", json.dumps(list(options)))


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter by what it is, never by its name: SHA-256 of its weights and config, and the scale it is used at.

    It acts from position `offset` of its sequence on. 0 is a plain LoRA; an activated one (aLoRA, Greenewald et al.,
    arXiv 2504.12397) acts from where it is invoked, and what comes before is the base's.
    """

    digest: str
    scale: float = 1.0
    offset: int = 0


# Adapters that act together, each at its scale: what they add is added up. None at all is the base.
Mixture: TypeAlias = tuple[AdapterRef, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or several requests. `cached` counts prompt tokens whose KV was found, not computed."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.completion + other.completion, self.cached + other.cached)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token of one request. `text` is what became printable with it (may be empty in the middle of a character).

    `logprob` is the natural log of the probability under the distribution before temperature, penalties and grammar; 0
    for a token that the grammar forced, unless log-probabilities were asked for.
    The last event of a request has `finish` and `usage`; a request that stops on a token that is not shown
    (end of turn, stop string) ends with an event whose `text` is empty.
    """

    token_id: int
    text: str
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked from outside: a conversation, or, without `messages`, a text or token ids to go on from.

    `tool_choice` is "auto", "required", "none" or a tool's name. `n` answers are drawn. `priority` and `deadline` are
    those of the engine's requests.
    """

    messages: tuple[Message, ...] = ()
    text: str | tuple[int, ...] = ""
    sampling: Sampling = Sampling()
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    grammar: Grammar | None = None
    n: int = 1
    priority: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of answer number `which`; its last one has `finish` and `usage`, and the calls if there are any. `cut` is
    one that the answer's end cut off.

    `logprob` is the token's log-probability in OpenAI's form, if it was asked for. `drawn` is the token itself, where
    one piece is one token. `event` is one of the run that the answer comes out of; such a piece says nothing else.
    """

    which: int
    text: str
    calls: tuple[ToolCall, ...] = ()
    logprob: Mapping[str, Any] | None = None
    finish: FinishReason | None = None
    usage: Usage | None = None
    event: Event | None = None
    drawn: TokenEvent | None = None
    cut: CutCall | None = None


# ---------------------------------------------------------------------------------------------- decisions
@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    value: T
    probability: float


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """A typed value with its probability and every alternative, most probable first. Never parsed out of prose.

    `by` says where the probabilities come from: "logits", "logprobs" or "samples" of a chat model; "" of the router, or
    "router" where it decides in the place of a chat model. A decision that was too unsure to be taken has `abstained`,
    and None as its value. `usage` are the tokens that it took; it is no part of what was decided.
    """

    value: T
    probability: float
    options: tuple[Option[T], ...] = ()
    by: str = ""
    abstained: bool = False
    usage: Usage = field(default=Usage(), compare=False)


# ---------------------------------------------------------------------------------------------- events of a run
@dataclass(frozen=True, slots=True)
class Routed:
    """Who works on `task`, and how sure the router was. `money` is what the decision cost, as in all events: in the
    currency of the prices and budgets, 0 where nothing has a price."""

    task: str
    decision: Decision[str]
    step: int = 0
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan. `#k` in `task` stands for the answer of step k (1-based), which must come earlier."""

    task: str
    after: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """`probability` is that of the whole plan as the planner's text; None when its model gives no log-probabilities.
    `usage` is what making it cost."""

    steps: tuple[Step, ...]
    probability: float | None
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Decided:
    """What a team decided on its way, other than who works next: `about` names it, `by` is who decided."""

    step: int
    by: str
    about: str
    decision: Decision[Any]
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class StepStarted:
    """`task` is what the agent was really asked, references to earlier answers filled in."""

    step: int
    agent: str
    task: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    step: int
    agent: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    step: int
    agent: str
    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """`failed` means that the tool raised; `result` is then what the model was told about it."""

    step: int
    agent: str
    call: ToolCall
    result: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class StepFinished:
    """`failed` means that the step could not be done; `answer` then says why. `usage` and `money` are all that was
    spent in it, on agents that are tools as well, whether or not it came to an end. `probability` is of the whole
    answer, where its model tells."""

    step: int
    agent: str
    answer: str
    usage: Usage
    seconds: float
    failed: bool = False
    money: float = 0.0
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A person has to answer before the run goes on: with an "approval" of a `call` that was not made yet, with the
    "outcome" of one of which nobody knows whether it was done, or with an "answer" to what is asked."""

    step: int
    agent: str
    text: str
    call: ToolCall | None = None
    kind: Literal["answer", "approval", "outcome"] = "answer"


@dataclass(frozen=True, slots=True)
class LimitReached:
    """`limit` of a budget (steps, tokens, seconds, money) is used up, or one answer's "max_tokens"; `value` is how much
    of it there was. What follows is a StepFinished with what was said so far, or an error."""

    step: int
    agent: str
    limit: str
    value: float


@dataclass(frozen=True, slots=True)
class HandedOff:
    """The agent gives no answer: `to` shall go on, and is told `task`."""

    step: int
    agent: str
    to: str
    task: str
    usage: Usage
    seconds: float
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Paused:
    """None of the calls of this turn is made before a person has looked at `calls` (`plural.agents.approval`). `state`
    is plain JSON and all that is needed to go on, in another process as well. It holds the whole transcript."""

    step: int
    agent: str
    calls: tuple[ToolCall, ...]
    state: Mapping[str, Any]
    usage: Usage
    seconds: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Paused:
        """Raises SettingsError for a text that `to_json` did not write."""
        try:
            saved = json.loads(text)
            calls = tuple(ToolCall(**call) for call in saved["calls"])
            return cls(**{**saved, "calls": calls, "usage": Usage(**saved["usage"])})
        except (ValueError, TypeError, KeyError) as error:
            raise SettingsError(f"This is no paused run: {error!r}.", hint="Give what to_json wrote.") from error


@dataclass(frozen=True, slots=True)
class RunFinished:
    """`usage` and `money` are the sums of what the run's steps, decisions and plan say of themselves."""

    answer: str
    usage: Usage
    seconds: float
    money: float = 0.0


Event = (
    Routed
    | Planned
    | Decided
    | StepStarted
    | TextDelta
    | ToolCalled
    | ToolReturned
    | LimitReached
    | StepFinished
    | HandedOff
    | Paused
    | Question
    | RunFinished
)


def event_to_json(event: Event) -> dict[str, Any]:
    """A dict for JSON: the event's fields and, under `event`, its type's name."""
    return {"event": type(event).__name__, **asdict(event)}


# ---------------------------------------------------------------------------------------------- scores
@dataclass(frozen=True, slots=True)
class Score:
    """`value` in [0, 1] over `n` held-out rows, by `metric` (exact, json, cron, ...); `by` says how they were asked.

    `low` and `high` bound the 95% interval. `tokens` are new ones an answer, `seconds` an answer's share of the time
    that all of them took together. `on` names the rows when they are not the held-out rows that the specialist carries.
    """

    metric: str
    value: float
    n: int
    by: str = ""
    low: float | None = None
    high: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    on: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean difference of two scores of the same `n` rows ("specialist - base"), with its 95% interval."""

    what: str
    value: float
    low: float
    high: float
    n: int
    on: str = ""
