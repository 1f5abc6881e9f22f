"""The router as a Runnable: a chain asks it who works."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RouterRunnable, RunnableBranch, RunnablePassthrough

from plural.agents import Agent
from plural.errors import PromptError
from plural.teams import Router, Routing
from plural.testing import ScriptedEmbedder, ScriptedModel

EXAMPLES = {
    "cron": ["every monday at noon", "every day at seven", "each friday evening at six", "every hour at noon"],
    "home": ["turn on the kitchen light", "turn off the hall lamp", "dim the light in the bath", "light off"],
    "base": ["who wrote faust", "what is a whale", "tell me a story", "why is the sky blue"],
}


@pytest.fixture
async def who() -> Routing:
    embedder = ScriptedEmbedder()
    vectors = {label: await embedder.aembed(texts) for label, texts in EXAMPLES.items()}
    return Routing(Router.fit(vectors, threshold=0.34), embedder)


def echo(messages: Any) -> str:
    return str(messages[-1].content)


async def test_a_decision_on_every_form_of_input(who: Routing) -> None:
    said = "turn on the lamp in the hall"
    forms: list[Any] = [
        said,
        HumanMessage(said),
        [HumanMessage("Hello"), AIMessage("Hi"), HumanMessage(said)],
        {"messages": [("user", said)]},
        ChatPromptTemplate.from_messages([("system", "every friday"), ("human", "{it}")]).invoke({"it": said}),
    ]
    assert {(await who.ainvoke(form)).value for form in forms} == {"home"}
    assert [decision.value for decision in who.batch(forms)] == ["home"] * len(forms)
    with pytest.raises(PromptError):
        who.invoke([AIMessage("turn on the lamp")])


def test_a_chain_gives_the_work_to_whom_it_chose(who: Routing) -> None:
    def signed(name: str) -> Any:
        return Agent(name, ScriptedModel([echo] * 2)) | (lambda said: f"{name}: {said}")

    agents = {name: signed(name) for name in EXAMPLES}
    chain = {"key": who | (lambda decision: decision.value), "input": RunnablePassthrough()} | RouterRunnable(agents)
    asked = ["turn off the light", "every friday at noon"]
    assert chain.batch(asked) == ["home: turn off the light", "cron: every friday at noon"]
    assert (chain | StrOutputParser()).invoke(asked[0]) == "home: turn off the light"


async def test_a_branch_on_how_sure_it_is(who: Routing) -> None:
    known = RunnablePassthrough.assign(decision=who)
    clerk, base = (Agent(name, ScriptedModel([name] * 2)) for name in ("clerk", "base"))
    chain = known | RunnableBranch((lambda given: given["decision"].probability > 0.3, clerk), base)
    assert await chain.ainvoke({"input": "every friday at noon"}) == "clerk"


async def test_it_shows_in_events_and_graphs(who: Routing) -> None:
    events = [event async for event in who.astream_events("light off", {"tags": ["mine"]}, version="v2")]
    assert {(event["name"], tuple(event["tags"])) for event in events} == {("router", ("mine",))}
    assert events[-1]["data"]["output"].value == "home"
    assert "router" in (who | (lambda decision: decision.value)).get_graph().draw_mermaid()
