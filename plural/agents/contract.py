"""What an answer must look like: the grammar it is drawn under, and the check of what came."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from plural.agents.schema import check_schema, violations
from plural.errors import ContractError, GrammarError
from plural.types import Grammar


@dataclass(frozen=True, slots=True)
class Contract:
    """The form of an answer. `source` is a JSON Schema or a list of choices as JSON, or a regular expression that the
    whole answer matches. With `model` a JSON answer becomes an instance of that pydantic model.

    Raises:
        GrammarError: a source that is damaged, or that could not be checked in full.
    """

    kind: Literal["json_schema", "regex", "choices"]
    source: str
    model: type[BaseModel] | None = None

    def __post_init__(self) -> None:
        match self.kind:
            case "regex":
                _compiled(self.source)
            case "choices":
                Grammar.choices(json.loads(self.source))
            case "json_schema" if self.model is None:
                check_schema(json.loads(self.source))
            case "json_schema":
                pass  # the model itself checks
            case _:
                raise GrammarError(f"An answer cannot be checked against a grammar of kind {self.kind!r}.")

    @property
    def grammar(self) -> Grammar:
        return Grammar(self.kind, self.source)

    def parse(self, answer: str) -> Any:
        """The value that `answer` stands for: JSON's value, the model's instance, or the text itself.

        Raises:
            ContractError: it does not have this form; the message is for the one who wrote it.
        """
        match self.kind:
            case "regex":
                if not _compiled(self.source).fullmatch(answer):
                    raise ContractError(f"The answer {answer!r} does not match {self.source!r}.")
                return answer
            case "choices":
                options = json.loads(self.source)
                if answer not in options:
                    raise ContractError(f"The answer {answer!r} is none of {', '.join(options)}.")
                return answer
        return _instance(self.model, answer) if self.model else _json(json.loads(self.source), answer)


Output = Contract | Mapping[str, Any] | type[BaseModel] | re.Pattern[str] | str | Sequence[str]


def contract_of(output: Output | None) -> Contract | None:
    """The contract that `output` stands for: a JSON Schema, a pydantic model, a regular expression (compiled, or its
    text) or a list of choices.

    Raises:
        GrammarError: none of these, or one that cannot be checked.
    """
    match output:
        case None | Contract():
            return output
        case type() if issubclass(output, BaseModel):
            return Contract("json_schema", Grammar.json_schema(output.model_json_schema()).source, output)
        case Mapping():
            return Contract("json_schema", Grammar.json_schema(output).source)
        case str():
            return Contract("regex", output)
        case re.Pattern():
            return Contract("regex", output.pattern)
        case Sequence() if all(isinstance(option, str) for option in output):
            return Contract("choices", Grammar.choices(output).source)
    raise GrammarError(
        f"{output!r} is no output contract.",
        hint="Give a JSON Schema, a pydantic model, a regular expression or a list of strings.",
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise GrammarError(f"{pattern!r} is not a regular expression: {error}.") from error


def _instance(model: type[BaseModel], answer: str) -> BaseModel:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the answer'}: {problem['msg']}" for problem in error.errors()
        )
        raise ContractError(f"The answer is not a valid {model.__name__}: {problems}.") from error


def _json(schema: Mapping[str, Any], answer: str) -> Any:
    try:
        value = json.loads(answer)
    except json.JSONDecodeError as error:
        raise ContractError(f"The answer is not JSON: {answer!r} ({error}).") from error
    problems = violations(value, schema)
    if problems:
        raise ContractError(f"The answer does not fit its schema: {'; '.join(problems)}.")
    return value
