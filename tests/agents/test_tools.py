"""What a model is told of a tool, and that nothing a tool does is a crash."""

from __future__ import annotations

import threading
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from plural.agents import Agent, tool, tool_specs, toolbox
from plural.errors import ToolError
from plural.testing import ScriptedModel, calling
from plural.types import Event, ToolReturned


class Room(BaseModel):
    name: str
    floor: int = 0


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: The first number,
            a whole one.
        b: The second number.
    """
    return a + b


async def returned(agent: Agent, request: str = "go") -> list[ToolReturned]:
    events: list[Event] = [event async for event in agent.events(request)]
    return [event for event in events if isinstance(event, ToolReturned)]


def test_a_function_says_what_it_takes() -> None:
    (spec,) = tool_specs([add])
    assert (spec.name, spec.description) == ("add", "Add two numbers.")
    properties = spec.parameters["properties"]
    assert properties["a"]["description"] == "The first number, a whole one."
    assert (properties["b"]["type"], properties["b"]["default"]) == ("integer", 1)
    assert spec.parameters["required"] == ["a"]


def test_nested_models_bound_methods_and_options_are_tools() -> None:
    class House:
        def light(self, room: Room) -> str:
            """Switch on the light in a room."""
            return f"{room.name} {room.floor}"

    @tool(name="add_up", return_direct=True)
    async def whatever(numbers: list[float]) -> float:
        """Add up."""
        return sum(numbers)

    light, total = tool_specs([House().light, whatever])
    assert (light.name, total.name) == ("light", "add_up")
    assert set(light.parameters["properties"]) == {"room"}
    assert total.parameters["properties"]["numbers"]["items"] == {"type": "number"}
    assert whatever.return_direct


def unannotated(place, days: int) -> str:  # type: ignore[no-untyped-def]
    """Forecast."""
    return ""


def silent(a: int) -> int:
    return a


def spread(*numbers: int) -> int:
    """Add."""
    return sum(numbers)


def opaque(lock: threading.Thread) -> str:
    """Wait."""
    return ""


def misdescribed(a: int) -> int:
    """Do it.

    Args:
        z: There is no such argument.
    """
    return a


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (unannotated, "'place' of tool 'unannotated' has no type hint"),
        (silent, "'silent' has no docstring"),
        (spread, r"'spread' takes \*numbers"),
        (opaque, "'opaque' has no JSON form"),
        (misdescribed, "'misdescribed' does not fit its signature.*z"),
        (lambda a: a, "'<lambda>'"),
        (42, "42 is not a tool"),
    ],
)
def test_a_tool_that_does_not_say_what_it_takes_is_refused(function: object, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        Agent("clerk", ScriptedModel([]), tools=[function])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ToolError, match="Two tools are called 'add'"):
        Agent("clerk", ScriptedModel([]), tools=[add, tool(add)])


def explode(fuse: str) -> str:
    """Explode."""
    raise RuntimeError("boom")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("explode", {"fuse": "short"}, "explode(fuse='short') failed: RuntimeError: boom"),
        ("add", {"a": "many"}, "argument 'a' = 'many'"),
        ("add", {}, "argument 'a' is missing"),
        ("add", {"a": 1, "c": 7}, "add takes no argument c=7. It takes: a, b."),
        ("subtract", {}, "There is no tool 'subtract'. Tools: add, explode."),
    ],
)
async def test_what_goes_wrong_is_an_observation(name: str, arguments: dict[str, object], says: str) -> None:
    model = ScriptedModel([calling((name, arguments)), "Sorry."])
    (event,) = await returned(Agent("clerk", model, tools=[add, explode]))
    assert event.failed
    assert says in event.result
    told = model.asked[1].messages[-1]
    assert (told.content, told.status) == (event.result, "error")  # type: ignore[attr-defined]


async def test_results_that_are_no_text_become_json() -> None:
    def rooms() -> list[str]:
        """List the rooms."""
        return ["küche", "bad"]

    model = ScriptedModel([calling(("rooms", {})), "Two."])
    (event,) = await returned(Agent("clerk", model, tools=[rooms]))
    assert event.result == '["küche", "bad"]'


async def test_a_sync_tool_runs_on_another_thread() -> None:
    def where() -> str:
        """Say where this runs."""
        return str(threading.get_ident())

    (event,) = await returned(Agent("clerk", ScriptedModel([calling(("where", {})), "Done."]), tools=[where]))
    assert event.result != str(threading.get_ident())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(12 + 3) * 4", "60"),
        ("0.1 + 0.2", "0.3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("1/3", "about 0.333333333333 = 1/3"),
        ("2 ** -2", "0.25"),
        ("-1.50 / 1_000", "-0.0015"),
        ("2**100", "1267650600228229401496703205376"),
    ],
)
def test_calculate_is_exact(expression: str, value: str) -> None:
    assert toolbox.calculate.invoke({"expression": expression}) == value


@settings(deadline=None)
@given(a=st.integers(-(10**9), 10**9), b=st.integers(-(10**9), 10**9), how=st.sampled_from(["+", "-", "*", "//", "%"]))
def test_calculate_agrees_with_python(a: int, b: int, how: str) -> None:
    expression = f"{a} {how} ({b})"
    if b == 0 and how in ("//", "%"):
        with pytest.raises(ZeroDivisionError):
            toolbox.calculate.invoke({"expression": expression})
    else:
        assert toolbox.calculate.invoke({"expression": expression}) == str(eval(expression))


NOT_ARITHMETIC = ("__import__('os')", "abs(1)", "True + 1", "1 if 1 else 2", "[1][0]", "", "4 ** 0.5")
TOO_LARGE = ("9**9**9", "2**100000", "1" * 201, "((10**999)**1)*(10**999)", "1e999999999", "1e-999999999")


@pytest.mark.parametrize("expression", [*NOT_ARITHMETIC, *TOO_LARGE])
def test_calculate_refuses_what_is_not_small_arithmetic(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        toolbox.calculate.invoke({"expression": expression})


def test_next_run_and_days_between() -> None:
    asked = {"cron": "30 7 * * 1-5", "after": "2026-01-31T08:00"}
    assert toolbox.next_run.invoke(asked) == "Monday 2026-02-02 07:30"
    assert toolbox.days_between.invoke({"start": "2024-02-28", "end": "2024-03-01"}) == 2
    with pytest.raises(ValueError, match="five fields"):
        toolbox.next_run.invoke({"cron": "* * * * * *"})
    with pytest.raises(ValueError, match="99"):
        toolbox.next_run.invoke({"cron": "99 * * * *"})


@settings(deadline=None)
@given(start=st.dates(), end=st.dates())
def test_days_between_any_dates(start: date, end: date) -> None:
    asked = {"start": start.isoformat(), "end": end.isoformat()}
    assert toolbox.days_between.invoke(asked) == (end - start).days


def test_the_carried_tools_are_described() -> None:
    for spec in tool_specs(list(toolbox.TOOLS.values())):
        assert all(argument["description"] for argument in spec.parameters["properties"].values())
