"""A decision that has to come: on our engine a grammar holds the model to it; any other model is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from plural.agents.agent import constrainable
from plural.agents.decisions import Model, adecide
from plural.agents.schema import finite_values, longest
from plural.errors import ContractError
from plural.types import Decision, Usage

TRIES = 3


def _nothing_wrong(_value: Any) -> Iterable[str]:
    return ()


async def insist(
    model: Model,
    messages: Sequence[BaseMessage],
    options: Sequence[str] | None = None,
    *,
    schema: Any = None,
    samples: int = 1,
    temperature: float = 1.0,
    faults: Callable[[Any], Iterable[str]] = _nothing_wrong,
    config: RunnableConfig | None = None,
) -> Decision[Any]:
    """`adecide`; where its value cannot be used, the model is told why and asked again, `TRIES` times in all. What all
    of its answers cost is the usage of the decision, or of the error.

    Args:
        temperature: as `adecide`'s.
        faults: what is wrong with a value that has the right form.

    Raises:
        ContractError: none of its answers can be used.
    """
    deciding, asked, usage = _with_room(model, schema), list(messages), Usage()
    for left in reversed(range(TRIES)):
        try:
            made = await adecide(
                deciding, asked, options, schema=schema, temperature=temperature, samples=samples, config=config
            )
        except ContractError as unusable:
            wrong = str(unusable)
            usage += unusable.usage if isinstance(unusable.usage, Usage) else Usage()
        else:
            wrong = "; ".join(faults(made.value))
            usage += made.usage
            if not wrong:
                return replace(made, usage=usage)
        if left:
            asked = [*messages, again(wrong)]
    error = ContractError(
        f"The model was asked {TRIES} times; its last answer: {wrong}", hint="Give a model that can do it."
    )
    error.usage = usage
    raise error


def again(wrong: str) -> HumanMessage:
    """What is said of an answer that cannot be used."""
    return HumanMessage(f"Your last answer could not be used. {wrong} Answer again.")


def _with_room(model: Model, schema: Any) -> Model:
    """A model that is held to the schema, with enough tokens for its longest value: none is cut off."""
    if not isinstance(schema, dict) or not constrainable(model) or finite_values(schema) is not None:
        return model
    room = longest(schema)
    return model.bind(max_tokens=room) if room else model
