"""Bodies of requests that several routes share: fields that are honoured, and a refusal that names every other one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plural.errors import SettingsError
from plural.serve.errors import WireError
from plural.types import Grammar, Sampling

Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
MOST_ANSWERS = 32
MOST_METADATA = 16
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=MOST_METADATA)
]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Drawing(Strict):
    """How tokens are drawn, where it is said. OpenAI's fields, and those of vLLM's that the engine has."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: int | None = None
    stop: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(max_length=16)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    # Higher ones first; and the seconds within which the first token must be there.
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    deadline: Annotated[float, Field(gt=0, le=86400)] | None = None

    def sampling(self, max_tokens: int, logprobs: int) -> Sampling:
        """Greedy unless a temperature is given: a small model is at its best so."""
        given = {name: getattr(self, name) for name in _SAMPLED if getattr(self, name) is not None}
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.stop_token_ids is not None:
            given["stop_token_ids"] = tuple(self.stop_token_ids)
        try:
            return Sampling(max_tokens=max_tokens, logprobs=logprobs, **given)
        except SettingsError as error:
            raise WireError(400, str(error)) from error


_SAMPLED = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "top_k", "min_p", "repetition_penalty",
    "ignore_eos",
)  # fmt: skip


class JsonSchema(Strict):
    """Answers are drawn under the schema's grammar, `strict` or not."""

    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class ObjectFormat(Strict):
    type: Literal["json_object"]


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]


def grammar_of(form: TextFormat | ObjectFormat | SchemaFormat | None) -> Grammar | None:
    match form:
        case ObjectFormat():
            return Grammar.json_schema({"type": "object"})
        case SchemaFormat():
            return Grammar.json_schema(form.json_schema.schema_)
    return None


class StructuredOutputs(Strict):
    """vLLM's way to say what an answer may look like; exactly one of them. `grammar` is llguidance's Lark."""

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None

    def to_grammar(self) -> Grammar:
        given = [name for name in ("json_", "regex", "choice", "grammar") if getattr(self, name) is not None]
        if len(given) != 1:
            raise WireError(
                400, "structured_outputs has one of json, regex, choice, grammar.", param="structured_outputs"
            )
        if self.json_ is not None:
            return Grammar.json_schema(self.json_)
        if self.regex is not None:
            return Grammar.regex(self.regex)
        return Grammar.choices(self.choice) if self.choice is not None else Grammar("lark", str(self.grammar))
