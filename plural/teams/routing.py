"""The router as a LangChain Runnable, so that a chain can ask who should work: messages in, a decision out.

who = Routing(router, embedder)
chain = {"key": who | (lambda decision: decision.value), "input": RunnablePassthrough()} | RouterRunnable(agents)

It is a `protocols.Chooser`, too: as a team's model it says who speaks next, or what a mixture is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig

from plural import sync
from plural.agents.agent import AgentInput, task_of
from plural.errors import SettingsError
from plural.protocols import Embedder
from plural.teams.router import Router
from plural.types import Decision, Option


class Routing(Runnable[AgentInput, Decision[str]]):
    """Decides on what an agent is given: a text, messages, a prompt's value, or a dict with "messages" or "input". Of a
    conversation it reads what the user said last.

    Raises:
        PromptError: there is no such text.
    """

    def __init__(self, router: Router, embedder: Embedder) -> None:
        self.name = "router"
        self._router, self._embedder = router, embedder

    async def ainvoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> Decision[str]:
        return await self._acall_with_config(self._route, input, config, **kwargs)

    def invoke(self, input: AgentInput, config: RunnableConfig | None = None, **kwargs: Any) -> Decision[str]:
        return sync.run(self.ainvoke(input, config, **kwargs))

    def batch(
        self,
        inputs: list[AgentInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Decision[str]]:
        return sync.run(self.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs))

    async def achoose(self, messages: LanguageModelInput, options: Sequence[str]) -> Decision[str]:
        """How probable each of the options is for what was said last, were there no others.

        Raises:
            SettingsError: an option that the router does not know.
        """
        given = [HumanMessage(messages)] if isinstance(messages, str) else messages
        known = {option.value: option.probability for option in (await self._route(given)).options}
        if unknown := [option for option in options if option not in known]:
            raise SettingsError(f"The router does not know {unknown[0]!r}.", hint=f"It knows: {', '.join(known)}.")
        total = sum(known[option] for option in options)
        ranked = sorted((Option(one, known[one] / total) for one in options), key=lambda one: -one.probability)
        return Decision(ranked[0].value, ranked[0].probability, tuple(ranked), "router")

    async def _route(self, input: AgentInput) -> Decision[str]:
        return await self._router.route(task_of(input), self._embedder)
