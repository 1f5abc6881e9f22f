"""Where requests go: what must hold for any load, and what can be counted by hand."""

from __future__ import annotations

import math
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from plural.scale.routing import Homes

FULL = 8


def homes(slack: int = 4, kept: int = 100) -> Homes[str]:
    return Homes(slack, kept, random.Random(0))


class Load(Counter[str]):
    def __call__(self, replica: str) -> float:
        return self[replica] if self[replica] < FULL else math.inf


@given(
    st.lists(st.tuples(st.none() | st.sampled_from("abcdef"), st.booleans()), max_size=60),
    st.integers(1, 5),
    st.integers(0, 6),
    st.integers(1, 4),
)
def test_nobody_is_ahead_by_more_than_the_slack_and_nobody_full_is_asked_before_the_free(
    asked: list[tuple[str | None, bool]], count: int, slack: int, kept: int
) -> None:
    router: Homes[str] = Homes(slack, kept, random.Random(0))
    load, replicas = Load(), [f"replica-{n}" for n in range(count)]
    for key, ends in asked:
        chosen = router.choose(key, replicas, load)
        assert chosen in replicas
        if count < 3:  # all of them were looked at
            least = min(load(one) for one in replicas)
            assert load(chosen) <= least + (2 * slack if key else 0)
            assert math.isinf(least) or not math.isinf(load(chosen))
        if not math.isinf(load(chosen)):
            load[chosen] += 1
        if ends:
            load[max(replicas, key=lambda one: load[one])] -= 1
            load = Load({one: max(0, left) for one, left in load.items()})


def test_a_cold_key_stays_where_it_was_though_others_have_less_to_do() -> None:
    router, load = homes(slack=2), Load()
    at = router.choose("cook", ["a", "b"], load)
    assert at is not None
    load[at] = 2
    assert {router.choose("cook", ["a", "b"], load) for _ in range(20)} == {at}


def test_a_hot_key_gets_one_more_home_sooner_than_a_cold_one_and_keeps_it() -> None:
    router, load = homes(slack=2), Load()
    first = router.choose("cook", ["a", "b"], load)
    assert first is not None
    second = "b" if first == "a" else "a"
    load[first] = 4
    assert router.choose("cook", ["a", "b"], load) == first
    load[first] = 2
    for _ in range(2):
        assert router.choose("cook", ["a", "b"], load) == first
    load[first] = 3
    assert router.choose("cook", ["a", "b"], load) == second, "four asked for it of the last 64"
    load.clear()
    load[first] = 1
    assert router.choose("cook", ["a", "b"], load) == second, "of two homes the one with less to do"
    for n in range(64):
        router.choose(str(n), ["c"], Load())
    assert router.choose("cook", [first, "c"], Load({first: 4})) == first, "it is cold again"


def test_a_key_that_few_ask_for_goes_elsewhere_in_the_end() -> None:
    router, load = homes(slack=2), Load()
    first = router.choose("cook", ["a", "b"], load)
    load[str(first)] = 5
    assert router.choose("cook", ["a", "b"], load) != first


def test_who_comes_in_the_same_moment_meets() -> None:
    replicas = [f"replica-{n}" for n in range(50)]
    router = homes()
    assert len({router.choose("cook", replicas, Load()) for _ in range(4)}) == 1


def test_a_new_key_goes_where_less_is_to_do() -> None:
    assert {homes().choose(str(n), ["a", "b"], Load(a=3, b=1)) for n in range(20)} == {"b"}


def test_what_others_told_counts() -> None:
    assert {homes().choose("cook", ["a", "b", "c", "d"], Load(), seen=["c"]) for _ in range(9)} == {"c"}


def test_a_replica_that_is_gone_is_no_home() -> None:
    router = homes()
    gone = router.choose("cook", ["a", "b"], Load())
    left = "b" if gone == "a" else "a"
    assert router.choose("cook", [left], Load(), seen=[str(gone)]) == left
    assert router.choose("cook", [], Load()) is None


def test_who_is_full_becomes_no_home() -> None:
    router, load = homes(), Load(a=FULL, b=FULL)
    assert router.choose("cook", ["a", "b"], load) in ("a", "b")
    assert router.choose("cook", ["a", "b"], Load(a=2, b=0)) == "b", "as if it had never been asked for"


def test_the_keys_used_last_are_remembered() -> None:
    router, load = homes(kept=2), Load(a=4)
    for key in ("one", "two", "three"):
        router.choose(key, ["a"], load)
    where = {key: router.choose(key, ["a", "b"], Load(a=3)) for key in ("three", "two", "one")}
    assert where == {"three": "a", "two": "a", "one": "b"}
