"""The router: it finds the right label, its probabilities mean something, and bad examples are named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.errors import DataError, SettingsError
from plural.teams import Router
from plural.testing import ScriptedEmbedder

EXAMPLES = {
    "cron": ["every monday at noon", "every day at seven", "each friday evening at six", "every hour at noon"],
    "home": ["turn on the kitchen light", "turn off the hall lamp", "dim the light in the bath", "light off"],
    "base": ["who wrote faust", "what is a whale", "tell me a story", "why is the sky blue"],
}


def clusters(
    seed: int, labels: int, spread: float, rows: int, width: int = 24
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Examples and held-out rows of overlapping clouds around random centres, all shifted one way."""
    random = np.random.default_rng(seed)
    shift = 2 * random.normal(size=width)
    names = ["base", *(f"s{number}" for number in range(1, labels))]
    centres = random.normal(size=(labels, width))
    draw = lambda centre, n: (shift + centre + spread * random.normal(size=(n, width))).tolist()  # noqa: E731
    return (
        {name: draw(centre, rows) for name, centre in zip(names, centres, strict=True)},
        {name: draw(centre, 100) for name, centre in zip(names, centres, strict=True)},
    )


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), labels=st.integers(2, 5), spread=st.sampled_from([0.5, 3.5]))
def test_any_examples_give_whole_ranked_probabilities(seed: int, labels: int, spread: float) -> None:
    examples, held_out = clusters(seed, labels, spread, rows=12)
    router = Router.fit(examples, threshold=0.0)
    for decision in (router.route_vector(row) for rows in held_out.values() for row in rows):
        ranked = [option.probability for option in decision.options]
        assert ranked == sorted(ranked, reverse=True)
        assert sum(ranked) == pytest.approx(1)
        assert sorted(option.value for option in decision.options) == sorted(examples)
        assert (decision.value, decision.probability) == (decision.options[0].value, ranked[0])


@pytest.mark.parametrize(("spread", "least"), [(0.5, 0.97), (2.0, 0.6), (3.5, 0.4)])
@pytest.mark.parametrize("labels", [2, 4])
def test_it_is_right_as_often_as_it_says(labels: int, spread: float, least: float) -> None:
    right: list[bool] = []
    said: list[float] = []
    for seed in range(3):
        examples, held_out = clusters(seed, labels, spread, rows=80)
        router = Router.fit(examples, threshold=0.0)
        for name, decision in [(name, router.route_vector(row)) for name, rows in held_out.items() for row in rows]:
            right.append(decision.value == name)
            said.append(decision.probability)
    assert np.mean(right) > least
    assert abs(np.mean(right) - np.mean(said)) < 0.07


def test_too_unsure_means_the_base() -> None:
    same = [[1.0, 0.1, 0.0], [1.0, 0.0, 0.1], [1.0, 0.1, 0.1]]
    router = Router.fit({"base": same, "cron": same, "home": same})
    decision = router.route_vector([1.0, 0.05, 0.05])
    assert decision.value == "base"
    assert decision.probability == pytest.approx(1 / 3, abs=1e-3)
    assert {option.value for option in decision.options} == {"base", "cron", "home"}


def test_who_plans_is_asked_already_when_that_is_not_unlikely() -> None:
    examples, held_out = clusters(7, labels=4, spread=2.0, rows=40)
    plain, planning = Router.fit(examples), Router.fit(examples, planners=["s1"])
    asked_sooner = 0
    for vector in (row for rows in held_out.values() for row in rows):
        before, now = plain.route_vector(vector), planning.route_vector(vector)
        assert now.options == before.options
        likely = next(option.probability for option in now.options if option.value == "s1")
        expected = "s1" if before.value != "base" and likely >= 0.2 else before.value
        assert now.value == expected
        asked_sooner += now.value != before.value
    assert asked_sooner
    with pytest.raises(SettingsError, match="The planner 'nobody' is no label"):
        Router.fit(examples, planners=["nobody"])


async def test_a_request_is_read_by_the_embedder() -> None:
    embedder = ScriptedEmbedder()
    router = Router.fit({label: await embedder.aembed(texts) for label, texts in EXAMPLES.items()}, threshold=0.34)
    assert (await router.route("turn on the lamp in the hall", embedder)).value == "home"
    assert (await router.route("every friday at noon", embedder)).value == "cron"


async def test_saved_and_made_again_it_decides_the_same() -> None:
    embedder = ScriptedEmbedder(64)
    vectors = {label: await embedder.aembed(texts) for label, texts in EXAMPLES.items()}
    router = Router.fit(vectors, planners=["cron"])
    back = Router.from_dict(json.loads(json.dumps(router.to_dict())))
    turned = Router.fit(dict(reversed(vectors.items())), planners=["cron"])
    for (vector,) in [await embedder.aembed([text]) for text in ("every light", "who is there", "")]:
        assert back.route_vector(vector) == router.route_vector(vector)
        assert turned.route_vector(vector) == router.route_vector(vector)
    assert back.planners == ("cron",)


def test_a_label_with_many_examples_does_not_drown_another() -> None:
    random = np.random.default_rng(3)
    draw = lambda centre, n: (np.array(centre) + 0.2 * random.normal(size=(n, 4))).tolist()  # noqa: E731
    router = Router.fit({"base": draw([1, 1, 0, 0], 200), "cron": draw([1, 0, 1, 0], 6)})
    assert np.mean([router.route_vector(row).value == "cron" for row in draw([1, 0, 1, 0], 50)]) > 0.9


ROWS = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ({}, "at least 2"),
        ({"base": ROWS}, "at least 2"),
        ({"home": ROWS, "cron": ROWS}, "no examples for 'base'"),
        ({"base": ROWS, "cron": ROWS[:1]}, "'cron' has 1 examples"),
        ({"base": ROWS, "cron": [[1.0], [2.0]]}, r"different lengths: \[1, 2\]"),
        ({"base": ROWS, "cron": [[0.0, 0.0], [1.0, 1.0]]}, "'cron' has a vector that is zero"),
        ({"base": ROWS, "cron": [[float("nan"), 0.0], [1.0, 1.0]]}, "not finite"),
    ],
)
def test_examples_that_cannot_be_learnt_from(vectors: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Router.fit(vectors)


def test_vectors_and_files_that_do_not_fit() -> None:
    router = Router.fit({"base": ROWS, "cron": ROWS})
    with pytest.raises(SettingsError, match="vectors of 2 numbers"):
        router.route_vector([1.0, 2.0, 3.0])
    with pytest.raises(SettingsError, match="zero or not finite"):
        router.route_vector([0.0, 0.0])
    with pytest.raises(SettingsError, match="threshold is 1"):
        Router.fit({"base": ROWS, "cron": ROWS}, threshold=1)
    with pytest.raises(DataError, match="damaged"):
        Router.from_dict({"labels": ["base"]})
    with pytest.raises(DataError, match="do not fit"):
        Router.from_dict(router.to_dict() | {"bias": [0.0]})
