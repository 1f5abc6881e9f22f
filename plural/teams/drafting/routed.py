"""A draft from the planner specialist's plan and the router, for the domains that they know: no observer, no prose.

A base of 135M parameters cannot judge a team; its planner specialist can split a request, and the router knows whom a
step suits and when it knows nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from langchain_core.runnables import RunnableConfig

from plural.agents.budget import paid
from plural.errors import PromptError
from plural.teams.drafting.drafts import GENERAL, Draft, DraftedAgent, DraftedStep, Missing, Ways
from plural.teams.drafting.staff import Staff
from plural.teams.planner import Planner
from plural.teams.router import without
from plural.types import Decision, Planned, Routed, Step

PLAIN = Ways(observers=False, refinement=False, memory=False)


async def draft_by_specialist(
    task: str,
    staff: Staff,
    planners: Sequence[Planner],
    *,
    known: Sequence[str] = (),
    may_lack: bool = True,
    approve: bool = False,
    config: RunnableConfig | None = None,
) -> AsyncIterator[Routed | Planned | Draft | Missing]:
    """Every decision on the way; at last the draft, or the skill that is missing.

    Args:
        may_lack: a step that suits nobody is a missing skill; without it, the base does it.
        approve: a person is asked about the plan when it is carried out.

    Raises:
        LimitError: the purse in the config does not reach for a plan.
    """
    if not task.strip():
        raise PromptError("The task is empty.", hint="Say what you want.")
    steps: tuple[Step, ...] = (Step(task),)
    plans = {planner.name: planner for planner in planners}
    decision = await _routed(task, staff)
    yield Routed(task, decision)
    routed = [decision]
    if planner := plans.get(decision.value):
        plan = await paid(lambda: planner.plan(task, config), config, planner.price)
        yield plan.event
        steps, routed = plan.steps, []
        for number, step in enumerate(steps, start=1):
            decision = without(await _routed(step.task, staff), plans)  # a step is not planned once more
            yield Routed(step.task, decision, number)
            routed.append(decision)
    lost = next((at for at, decision in enumerate(routed) if decision.value == GENERAL), None)
    if lost is not None and may_lack:
        yield Missing(steps[lost].task, _why(routed[lost]), task)
        return
    yield Draft(
        task=task,
        agents=tuple(_agents(routed, staff)),
        steps=tuple(
            DraftedStep(task=step.task, agents=(decision.value,), inputs=step.after)
            for step, decision in zip(steps, routed, strict=True)
        ),
        ways=PLAIN.model_copy(update={"approve": approve}),
        known=tuple(known),
    )


async def _routed(task: str, staff: Staff) -> Decision[str]:
    """Whom it suits."""
    return Decision(GENERAL, 1.0) if staff.route is None else await staff.route(task)


def _agents(routed: Sequence[Decision[str]], staff: Staff) -> Sequence[DraftedAgent]:
    surest: dict[str, float] = {}
    for decision in routed:
        surest[decision.value] = min(decision.probability, surest.get(decision.value, 1.0))
    return [
        DraftedAgent(
            name=name,
            description=staff.specialists.get(name, "Answers what nobody else can."),
            specialist=name,
            found="" if name == GENERAL else f"by the router, {probability:.2f}",
        )
        for name, probability in surest.items()
    ]


def _why(decision: Decision[str]) -> str:
    others = [option for option in decision.options if option.value != GENERAL][:2]
    nearest = " or ".join(f"{option.value} ({option.probability:.2f})" for option in others)
    return f"The router gives it to nobody; the nearest: {nearest}." if others else "There is no specialist."
