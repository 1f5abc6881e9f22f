"""What the engine of a cluster does with replicas that are lost, that refuse, that differ: the replicas are played."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from plural.engine import Request
from plural.engine.engine import EngineStats
from plural.engine.interface import TokenEngine
from plural.errors import DataError, EngineLost, EngineStopped, MachineError, PluralError, PromptError, SettingsError
from plural.types import AdapterRef, Decision, Option, Sampling, TokenEvent, Usage

pytest.importorskip("ray.serve", reason="Ray is not installed: pip install 'plural[ray]'")

from ray.exceptions import ActorDiedError

from plural.scale.cluster import Identity, Patience
from plural.scale.engine import PREFIX, ClusterEngine, affinity_key, identities
from plural.scale.settings import ScaleSettings

DIED = ActorDiedError()
REQUEST = Request((1, 2, 3))


def said(*tokens: int, last: bool = True) -> list[TokenEvent]:
    """Tokens as a replica tells them; the last one ends the answer."""
    events = [TokenEvent(token, f"<{token}>", -0.5) for token in tokens]
    return [*events[:-1], replace(events[-1], finish="stop", usage=Usage(3, len(tokens)))] if last else events


class Replicas:
    """A handle of Ray Serve. Each try is a list of messages, or what goes wrong in the middle of them."""

    def __init__(self, *tries: list[Any], told: list[Any] | None = None) -> None:
        self.tries, self.told = list(tries), told or []
        self.keys: list[str] = []
        self.calls: list[tuple[Any, ...]] = []
        self.cancelled = 0

    def options(self, *, stream: bool, multiplexed_model_id: str) -> Replicas:
        self.keys.append(multiplexed_model_id)
        return self

    @property
    def stream(self) -> Replicas:
        return self

    answer = stream

    def remote(self, *call: Any) -> _Said:
        self.calls.append(call)
        return _Said(self, self.tries.pop(0) if len(self.tries) > 1 else self.tries[0])

    def broadcast(self, call: str, *given: Any) -> Replicas:
        self.calls.append((call, *given))
        return self

    def results(self, *, timeout_s: float) -> list[Any]:
        return self.told


class _Said:
    def __init__(self, replicas: Replicas, messages: list[Any]) -> None:
        self.replicas, self.messages = replicas, messages

    async def __aiter__(self) -> AsyncIterator[Any]:
        for one in self.messages:
            await asyncio.sleep(0)
            if isinstance(one, ActorDiedError):
                raise one
            yield one

    def __await__(self) -> Iterator[Any]:
        return self._one().__await__()

    async def _one(self) -> Any:
        if isinstance(self.messages[0], ActorDiedError):
            raise self.messages[0]
        return self.messages[0]

    def cancel(self) -> None:
        self.replicas.cancelled += 1


def engine(replicas: Replicas, **scale: Any) -> ClusterEngine:
    return ClusterEngine(replicas, ScaleSettings.of(**{"patience": 0.5} | scale))


async def drawn(engine: ClusterEngine, request: Request = REQUEST) -> list[int]:
    return [event.token_id async for event in engine.generate(request)]


def test_it_is_an_engine() -> None:
    assert isinstance(engine(Replicas([])), TokenEngine)


async def test_a_lost_replica_takes_no_token_with_it_and_gives_none_twice() -> None:
    replicas = Replicas([said(7, 8, last=False), DIED], [said(7, last=False), DIED], [said(7), said(8, 9)])
    replicas.tries[2] = [said(7, 8, last=False), said(9)]
    asked = engine(replicas)
    assert await drawn(asked) == [7, 8, 9]
    assert asked.retried == 2
    assert replicas.cancelled == 3


async def test_samples_are_told_apart_when_they_come_in_another_order() -> None:
    first = [[(0, event) for event in said(1, 2, last=False)], [(1, said(5, last=False)[0])], DIED]
    again = [[(1, event) for event in said(5, 6)], [(0, event) for event in said(1, 2, 3)]]
    got = [(which, event.token_id) async for which, event in engine(Replicas(first, again)).samples(REQUEST, 2)]
    assert sorted(got) == [(0, 1), (0, 2), (0, 3), (1, 5), (1, 6)]


async def test_a_sampled_request_is_repeated_with_the_seed_that_it_was_begun_with() -> None:
    replicas = Replicas([DIED], [said(4)])
    await drawn(engine(replicas), Request((1,), Sampling(temperature=1.0)))
    (_, first), (_, second) = replicas.calls
    assert first.sampling.seed == second.sampling.seed is not None


async def test_another_machine_that_draws_another_token_is_no_answer() -> None:
    with pytest.raises(MachineError, match="draws token 8 where it drew 7"):
        await drawn(engine(Replicas([said(7, last=False), DIED], [said(8, 9)])))


async def test_what_the_engine_refuses_is_raised_as_it_is_and_not_tried_again() -> None:
    replicas = Replicas([[PromptError("The prompt is empty.", hint="Give it one.")]])
    with pytest.raises(PromptError, match="Give it one"):
        await drawn(engine(replicas))
    assert len(replicas.calls) == 1


async def test_patience_ends_with_an_error_that_says_so() -> None:
    begun = time.monotonic()
    with pytest.raises(MachineError, match=r"in 0\.5 seconds was lost"):
        await drawn(engine(Replicas([DIED])))
    assert 0.4 < time.monotonic() - begun < 5


async def test_a_long_answer_does_not_use_up_the_patience() -> None:
    patience = Patience(0.2)
    assert patience.pause()
    await asyncio.sleep(0.25)
    patience.renew()
    assert patience.pause()
    await asyncio.sleep(0.25)
    assert patience.pause() is None


async def test_choices_are_asked_elsewhere_when_a_replica_is_lost() -> None:
    decision = Decision("a", 1.0, (Option("a", 1.0),), "logits")
    gone = EngineLost("The engine at http://127.0.0.1:1 cannot be reached.")
    replicas = Replicas([DIED], [EngineStopped("The engine was closed.")], [gone], [decision])
    assert await engine(replicas, patience=5).choose((1,), ["a"]) == decision
    assert len(replicas.calls) == 4


async def test_a_replica_whose_engine_is_lost_is_a_lost_replica() -> None:
    gone = EngineLost("The engine at http://127.0.0.1:1 broke off in the middle of an answer.")
    replicas = Replicas([said(7, 8, last=False), [gone]], [said(7, 8, 9)])
    asked = engine(replicas)
    assert await drawn(asked) == [7, 8, 9]
    assert asked.retried == 1


async def test_a_closed_engine_asks_nobody() -> None:
    asked = engine(replicas := Replicas([said(1)]))
    asked.close()
    with pytest.raises(EngineStopped):
        await drawn(asked)
    assert not replicas.calls


def test_numbers_of_all_replicas_are_added_up() -> None:
    one = EngineStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ("a", "b"), 13)
    summed = engine(Replicas([], told=[one, replace(one, adapters=("b", "c"))])).look()
    assert (summed.steps, summed.computed, summed.loaded, summed.page_bytes) == (2, 4, 26, 12)
    assert summed.adapters == ("a", "b", "c")


def test_every_replica_is_told_to_pin_and_what_one_refuses_is_raised() -> None:
    asked = engine(replicas := Replicas([], told=[None, MachineError("No room.")]))
    with pytest.raises(MachineError, match="No room"):
        asked.pin("sha256:1")
    assert replicas.calls == [("pin", "sha256:1")]


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        (Identity("0.2", "sha256:1", "tiny"), "version '0.2'"),
        (Identity("0.1", "sha256:2", "tiny"), "base 'sha256:2'"),
    ],
)
def test_another_version_or_base_is_refused_by_name(theirs: Identity, named: str) -> None:
    mine = Identity("0.1", "sha256:1", "tiny")
    mine.refuse(replace(mine, base_name="the same under another name"), "node 2")
    with pytest.raises(SettingsError, match=f"node 2 has the {named}"):
        mine.refuse(theirs, "node 2")


def test_a_network_opens_while_a_replica_is_being_replaced() -> None:
    """An owner of runs that was started anew in that moment failed for good, and with it whoever asked it."""
    mine = Identity("0.1", "sha256:1", "tiny")

    class Shaky(Replicas):
        lost = 2

        def results(self, *, timeout_s: float) -> list[Any]:
            self.lost -= 1
            if self.lost >= 0:
                raise DIED
            return super().results(timeout_s=timeout_s)

    assert identities(engine(Shaky([], told=[mine])), patience=5) == [mine]
    with pytest.raises(MachineError, match="did not answer 'identity'"):
        identities(engine(Shaky([], told=[mine])), patience=0)


# ------------------------------------------------------------------------------------------------------ who meets whom
LONG = tuple(range(PREFIX + 10))


def test_a_specialist_s_requests_meet_whatever_they_say() -> None:
    worn = (AdapterRef("sha256:" + "a" * 64),)
    assert affinity_key((1, 2), worn) == affinity_key(LONG, worn) == "a" * 16


def test_prompts_of_the_base_meet_when_they_begin_alike_and_are_long() -> None:
    assert affinity_key((1, 2), ()) == ""
    assert affinity_key(LONG, ()) == affinity_key((*LONG, 5), ()) != affinity_key((9, *LONG), ())


def test_an_activated_adapter_goes_where_its_transcript_was_read() -> None:
    worn = (AdapterRef("sha256:" + "a" * 64, offset=PREFIX),)
    assert affinity_key(LONG, worn) == affinity_key(LONG, ())
    early = (AdapterRef("sha256:" + "a" * 64, offset=PREFIX - 1),)
    assert affinity_key(LONG, early) == "a" * 16


async def test_affinity_can_be_switched_off() -> None:
    worn = Request((1,), adapter=AdapterRef("sha256:" + "a" * 64))
    await drawn(engine(near := Replicas([said(1)])), worn)
    await drawn(engine(anywhere := Replicas([said(1)]), affinity=False), worn)
    assert (near.keys, anywhere.keys) == (["a" * 16], [""])


# ------------------------------------------------------------------------------------------------------------ settings
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas 2 is below replicas 3"),
        ({"target": 40, "busy": 32}, "target 40.0 is above busy 32"),
        ({"slack": -1}, "slack is -1"),
        ({"replica": 2}, "replica is 2"),
    ],
)
def test_impossible_settings_are_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        ScaleSettings.of(**given)


@pytest.mark.parametrize(
    ("given", "ahead", "aim"),
    [
        ({}, 4, 4),
        ({"cpus": 4}, 16, 16),
        ({"cpus": 1, "gpus": 0.5}, 16, 16),
        ({"busy": 5, "target": 2, "slack": 0}, 0, 2),
        ({"cpus": 4, "busy": 8}, 16, 8),
    ],
)
def test_how_much_a_replica_has_to_do_follows_from_what_it_has(given: dict[str, Any], ahead: int, aim: float) -> None:
    settings = ScaleSettings.of(**given)
    assert (settings.ahead, settings.aim) == (ahead, aim)


@pytest.mark.parametrize(
    "error",
    [PromptError("Too long.", hint="Shorten it."), DataError("rows.jsonl", [(3, "no answer")])],
)
def test_errors_arrive_in_another_process_as_they_were(error: PluralError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)
