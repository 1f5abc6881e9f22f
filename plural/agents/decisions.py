"""Decisions: a value out of a finite set, or of a schema, with its probability. Never parsed out of prose.

How the probabilities come about depends on the model, and `Decision.by` says which it was:

logits    the model is a `protocols.Chooser`, as the engine's is: of every option as the whole answer, exact
logprobs  the provider gives log-probabilities: of every option's letter as the answer's first token, or, of a value
          that a schema leaves open, of its whole text among all texts that the model can write
samples   any other model: each value's share of several answers
router    `plural.teams.Routing` as the model: its calibrated probabilities
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import get_async_callback_manager_for_config, merge_configs
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from plural import sync
from plural.agents.agent import constrainable
from plural.agents.budget import Counted
from plural.agents.schema import check_schema, finite_values, violations
from plural.errors import ContractError, GrammarError, SettingsError
from plural.protocols import Chooser
from plural.types import Decision, Grammar, Option, Usage

Model = Runnable[LanguageModelInput, Any]
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_LETTERS = "ABCDEFGHIJKLMNOPQRST"  # twenty, of which providers give log-probabilities


def decide(
    model: Model,
    messages: LanguageModelInput,
    options: Sequence[str] | None = None,
    *,
    schema: Any = None,
    threshold: float = 0.0,
    temperature: float = 1.0,
    samples: int = 8,
    alternatives: int = 0,
    config: RunnableConfig | None = None,
) -> Decision[Any]:
    """One of `options`, or a value of `schema` (a JSON Schema, or a type that pydantic reads: a model, a TypedDict,
    an Enum, a Literal).

    A schema with at most 64 values is a choice among them, and all of them are options. Other values have a
    probability, too, but of their alternatives only those are known that were drawn.

    Args:
        threshold: a decision less probable than this is not taken: its value is None and `abstained` says so. What it
            would have been is the first of its options.
        temperature: divides the log-probabilities of the options; fitted on decisions whose right answers are known
            (`plural.evals.calibration`), it makes the probabilities mean what they say.
        samples: how many answers are drawn where nothing but sampling tells how probable a value is. The model's own
            temperature decides how different they are.
        alternatives: how many more answers are drawn, at temperature 1 and in one batch, where a schema leaves the
            value open and the model takes its grammar and tells log-probabilities. Each value that was found is an
            option with the probability of its own texts; the rest belongs to values that nobody has seen.

    Raises:
        SettingsError: not exactly one of options and schema, or a number out of its range.
        GrammarError: options or a schema that cannot be chosen from.
        ContractError: the model gave no answer that is one of the options or fits the schema.
    """
    return sync.run(
        adecide(
            model,
            messages,
            options,
            schema=schema,
            threshold=threshold,
            temperature=temperature,
            samples=samples,
            alternatives=alternatives,
            config=config,
        )
    )


async def adecide(
    model: Model,
    messages: LanguageModelInput,
    options: Sequence[str] | None = None,
    *,
    schema: Any = None,
    threshold: float = 0.0,
    temperature: float = 1.0,
    samples: int = 8,
    alternatives: int = 0,
    config: RunnableConfig | None = None,
) -> Decision[Any]:
    """`decide`, awaited."""
    if (options is None) == (schema is None):
        raise SettingsError("A decision needs options or a schema, and not both.")
    for name, value, fine, allowed in (
        ("threshold", threshold, 0 <= threshold <= 1, "in [0, 1]"),
        ("temperature", temperature, temperature > 0, "above 0"),
        ("samples", samples, samples >= 1, "at least 1"),
        ("alternatives", alternatives, alternatives >= 0, "at least 0"),
    ):
        if not fine:
            raise SettingsError(f"{name} is {value!r}; it must be {allowed}.")
    form = _form_of(options, schema)
    asked, counted = _read(messages), Counted()
    config = merge_configs(config, {"callbacks": [counted]})
    try:
        made = await _made(model, asked, form, samples, alternatives, config)
    except ContractError as error:
        error.usage = counted.usage
        raise
    made = replace(made, usage=made.usage + counted.usage)
    if form.values is not None and temperature != 1:
        made = tempered(made, temperature)
    typed = tuple(Option(form.typed(option.value), option.probability) for option in made.options)
    abstained = made.probability < threshold
    return replace(made, value=None if abstained else typed[0].value, options=typed, abstained=abstained)


def tempered(decision: Decision[Any], temperature: float) -> Decision[Any]:
    """The same decision with its options' log-probabilities divided by `temperature`."""
    first = max(option.probability for option in decision.options)
    weights = [(option.probability / first) ** (1 / temperature) for option in decision.options]
    options = tuple(
        Option(option.value, weight / sum(weights)) for option, weight in zip(decision.options, weights, strict=True)
    )
    return replace(decision, probability=options[0].probability, options=options)


@dataclass(frozen=True, slots=True)
class _Form:
    """What may be decided: the JSON Schema, all its values if they are few, and what one is to the caller."""

    schema: Mapping[str, Any]
    values: tuple[Any, ...] | None
    typed: Callable[[Any], Any]

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as a model writes them: strings bare, unless another value would then look the same."""
        values = self.values or ()
        bare = tuple(value if isinstance(value, str) else json.dumps(value) for value in values)
        return bare if len(set(bare)) == len(bare) else tuple(map(json.dumps, values))

    @property
    def wish(self) -> str:
        if self.values is None:
            return f"Answer with JSON that fits this JSON Schema, and nothing else: {json.dumps(self.schema)}"
        return "Answer with one of these, and nothing else:\n" + "\n".join(self.texts)

    def read(self, text: str) -> Any:
        """Raises ContractError for what may not be decided."""
        if self.values is not None:
            said = text.strip()
            for wanted, value in zip(self.texts, self.values, strict=True):
                if said in (wanted, json.dumps(value)) or said.rstrip(".").casefold() == wanted.casefold():
                    return value
            raise ContractError(f"The answer {text!r} is none of {', '.join(self.texts)}.")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ContractError(f"The answer is not JSON: {text!r}.", hint="Raise max_tokens.") from error
        if _HALF.search(text):  # of a pair of surrogates, which no file and no tokenizer takes
            whole = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            value = json.loads(whole)
        if problems := violations(value, self.schema):
            raise ContractError(f"The answer does not fit its schema: {'; '.join(problems)}.")
        return value


def _form_of(options: Sequence[str] | None, schema: Any) -> _Form:
    if options is not None:
        Grammar.choices(options)
        return _Form({"type": "string", "enum": list(options)}, tuple(options), lambda value: value)
    if isinstance(schema, Mapping):
        check_schema(schema)
        return _Form(schema, finite_values(schema), lambda value: value)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(schema)
        described = adapter.json_schema()
    except PydanticUserError as error:
        raise GrammarError(f"{schema!r} has no JSON Schema: {error.message}") from error

    def typed(value: Any) -> Any:
        try:
            return adapter.validate_json(json.dumps(value))
        except ValidationError as error:
            raise ContractError(f"{value!r} is not a valid {getattr(schema, '__name__', schema)}: {error}.") from error

    return _Form(described, finite_values(described), typed)


async def _made(
    model: Model,
    asked: list[BaseMessage],
    form: _Form,
    samples: int,
    alternatives: int,
    config: RunnableConfig | None,
) -> Decision[Any]:
    plain = _unbound(model)
    found: Decision[Any] | None = None
    if form.values is None:
        if constrainable(model):
            found = await _whole_text(model, asked, form, samples, alternatives, config)
    elif isinstance(plain, Chooser):
        values = dict(zip(form.texts, form.values, strict=True))
        chosen = await _chosen(plain, asked, form.texts, config)
        shares = [(values[option.value], option.probability) for option in chosen.options]
        ranked = _ranked(shares, chosen.by or "logits")
        found = replace(ranked, usage=chosen.usage)
    elif len(form.values) <= len(_LETTERS):
        found = await _first_letter(model, asked, form, config)
    return found or await _sampled(model, asked, form, samples, config)


async def _chosen(
    plain: Chooser, asked: list[BaseMessage], options: Sequence[str], config: RunnableConfig | None
) -> Decision[str]:
    """The choice; of a chat model, as one call to those who listen to its calls (`Counted`, traces)."""
    if not isinstance(plain, BaseChatModel):
        return await plain.achoose(asked, options)
    told = merge_configs(config, {"metadata": dict(plain._get_ls_params())})
    (call,) = await get_async_callback_manager_for_config(told).on_chat_model_start({}, [asked])
    try:
        chosen = await plain.achoose(asked, options)
    except BaseException as error:
        await call.on_llm_error(error)
        raise
    read, written, cached = chosen.usage.prompt, chosen.usage.completion, chosen.usage.cached
    counted = UsageMetadata(
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        input_token_details={"cache_read": cached},
    )
    said = ChatGeneration(message=AIMessage(chosen.value, usage_metadata=counted))
    await call.on_llm_end(LLMResult(generations=[[said]]))
    return replace(chosen, usage=Usage())  # it was counted as that of any other call


async def _whole_text(
    model: Model,
    asked: list[BaseMessage],
    form: _Form,
    samples: int,
    alternatives: int,
    config: RunnableConfig | None,
) -> Decision[Any] | None:
    """One answer under the schema's grammar, and others beside it. A value's probability is that of its texts among all
    that the model can write; of a model that does not tell, it is the one sample, if one is enough."""
    first = model.bind(grammar=Grammar.json_schema(form.schema), logprobs=1)
    others = [first.bind(temperature=1.0, seed=seed) for seed in range(alternatives)]
    said, *more = await asyncio.gather(*(each.ainvoke(asked, config) for each in (first, *others)))
    if not _logprobs(said):
        return _ranked([(form.read(said.text), 1.0)], "samples") if samples == 1 else None
    values = {said.text: form.read(said.text)}
    for other in more:
        with contextlib.suppress(ContractError):  # one that was cut off
            values[other.text] = form.read(other.text)
    told = {each.text: math.exp(sum(token["logprob"] for token in _logprobs(each))) for each in (said, *more)}
    shares: dict[str, float] = {}
    for text, value in values.items():
        mark = json.dumps(value, sort_keys=True)
        shares[mark] = shares.get(mark, 0.0) + told[text]
    return _ranked([(json.loads(mark), share) for mark, share in shares.items()], "logprobs")


async def _first_letter(
    model: Model, asked: list[BaseMessage], form: _Form, config: RunnableConfig | None
) -> Decision[Any] | None:
    """The values as a list with letters, and how likely each letter is as the first token. None: nobody says so."""
    assert form.values is not None  # its values have letters
    lettered = dict(zip(_LETTERS, form.values, strict=False))
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(_LETTERS, form.texts, strict=False))
    wish = HumanMessage(f"{listed}\nAnswer with one letter, and nothing else.")
    try:
        said = await model.ainvoke([*asked, wish], config, logprobs=True, top_logprobs=len(_LETTERS))
    except Exception:  # noqa: BLE001 - each provider refuses an option in its own way; a real fault comes again below
        return None
    first = next((token for token in _logprobs(said) if token["token"].strip()), {"top_logprobs": ()})
    shares = dict.fromkeys(lettered, 0.0)
    for token in first["top_logprobs"]:
        if (letter := token["token"].strip()) in shares:
            shares[letter] += math.exp(token["logprob"])
    whole = sum(shares.values())
    return _ranked([(lettered[at], share / whole) for at, share in shares.items()], "logprobs") if whole else None


async def _sampled(
    model: Model, asked: list[BaseMessage], form: _Form, samples: int, config: RunnableConfig | None
) -> Decision[Any]:
    answers = await _answering(model, form).abatch(
        [[*asked, HumanMessage(form.wish)]] * samples, config, return_exceptions=True
    )
    votes: Counter[str] = Counter()
    broken: Exception | None = None
    for answer in answers:
        if isinstance(answer, ContractError | OutputParserException):
            broken = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            votes[json.dumps(answer, sort_keys=True)] += 1
    if not votes:
        raise ContractError(f"None of {samples} answers can be used; the last: {broken}") from broken
    others = [value for value in form.values or () if json.dumps(value, sort_keys=True) not in votes]
    drawn = [(json.loads(text), count / votes.total()) for text, count in votes.items()]
    return _ranked([*drawn, *((value, 0.0) for value in others)], "samples")


def _answering(model: Model, form: _Form) -> Runnable[LanguageModelInput, Any]:
    """Gives one value: held to it by a grammar, by the provider's structured output, or only asked for."""
    if constrainable(model):
        grammar = Grammar.json_schema(form.schema) if form.values is None else Grammar.choices(form.texts)
        return model.bind(grammar=grammar) | RunnableLambda(lambda said: form.read(said.text))
    wrapped = {
        "title": "decision",
        "description": "What was decided.",
        "type": "object",
        "properties": {"value": form.schema},
        "required": ["value"],
        **{key: form.schema[key] for key in ("$defs", "definitions") if key in form.schema},  # where references lead
    }
    try:
        structured: Runnable[LanguageModelInput, Any] = _unbound(model).with_structured_output(wrapped)
    except (AttributeError, NotImplementedError):
        return model | RunnableLambda(lambda said: form.read(said if isinstance(said, str) else said.text))
    return structured | RunnableLambda(lambda made: form.read(_text((made or {}).get("value"))))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _ranked(options: Sequence[tuple[Any, float]], by: str) -> Decision[Any]:
    ranked = tuple(Option(value, share) for value, share in sorted(options, key=lambda option: -option[1]))
    return Decision(ranked[0].value, ranked[0].probability, ranked, by)


def _logprobs(said: Any) -> Sequence[Mapping[str, Any]]:
    """Of every token of a message, in OpenAI's form; empty where the provider gives none."""
    told = said.response_metadata.get("logprobs") if isinstance(said, AIMessage) else None
    return (told or {}).get("content") or ()


def _unbound(model: Any) -> Any:
    """The model itself, unless something was bound to it that a decision would then leave out."""
    while isinstance(model, RunnableBinding):
        if model.kwargs:
            return None
        model = model.bound
    return model


def _read(messages: LanguageModelInput) -> list[BaseMessage]:
    if isinstance(messages, str):
        return [HumanMessage(messages)]
    return messages.to_messages() if isinstance(messages, PromptValue) else convert_to_messages(messages)
