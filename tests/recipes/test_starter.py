"""The data of the starter library: splits that do not leak, and answers that keep their contracts."""

from __future__ import annotations

import json
import random
import re

import pytest

from plural.agents.schema import violations
from plural.evals import Task, checker

pytest.importorskip("hassil")
pytest.importorskip("cron_descriptor")


# ------------------------------------------------------------------------------------------------------------- home
def test_home_sentences_keep_the_contract_and_never_share_a_template() -> None:
    import home

    known = home.templates()
    trained = {(one.intent, one.text) for one in known if not one.held_out}
    tested = {(one.intent, one.text) for one in known if one.held_out}
    assert len(tested) > 100
    assert not trained & tested
    train, test = home.rows("train", 150), home.rows("test", 60)
    assert not {row["prompt"].lower() for row in train} & {row["prompt"].lower() for row in test}
    schema = home.contract()
    for row in train + test:
        assert not violations(json.loads(row["answer"]), schema), row
        slots = list(json.loads(row["answer"])["slots"])
        assert slots == sorted(slots, key=list(schema["properties"]["slots"]["properties"]).index)


def test_home_labels_are_what_hassil_recognises() -> None:
    import home
    from hassil import Intents, recognize
    from hassil.intents import TextSlotList
    from home_assistant_intents import get_intents
    from home_words import AREAS, FLOORS

    intents = Intents.from_dict(get_intents("en"))
    words = {"area": AREAS, "floor": FLOORS, "name": ()}  # no device is named here, but hassil wants every list
    lists = {name: TextSlotList.from_strings(these, name=name) for name, these in words.items()}
    sampler = home.Sampler(5, unseen=True)
    blocks = ("area_domain", "area_brightness", "area_temperature", "minutes_only")
    drawn = [(*sampler.draw(one), one.intent) for one in home.templates() if one.block in blocks][::6]
    agreed = 0
    for sentence, slots, intent in drawn:
        found = recognize(sentence, intents, slot_lists=lists)
        heard = {name: entity.value for name, entity in found.entities.items()} if found else {}
        agreed += bool(found) and found.intent.name == intent and heard == slots
    assert agreed / len(drawn) > 0.9


# ------------------------------------------------------------------------------------------------------------- cron
@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("at midnight", "0 0"),
        ("at noon", "0 12"),
        ("at half past seven in the morning", "30 7"),
        ("at quarter to nine in the evening", "45 20"),
        ("at 7pm", "0 19"),
    ],
)
def test_clock_times_are_said_as_people_say_them(words: str, fields: str) -> None:
    import cron

    minute, hour = map(int, fields.split())
    chance = random.Random(0)
    assert words in {f"at {cron.clock(hour, minute, chance)}" for _ in range(400)}


def test_schedules_keep_the_contract_and_the_test_expressions_are_never_trained() -> None:
    import cron

    chance = random.Random(1)
    rows = [cron.natural(chance) for _ in range(400)] + [cron.described(chance) for _ in range(10)]
    for row in rows:
        assert re.fullmatch(cron.CONTRACT, row["answer"]), row
        assert checker("cron")(row["answer"], row["answer"]) == 1.0
    held_out = [row for row in rows if cron.held_out(row["answer"])]
    assert 0.03 < len(held_out) / len(rows) < 0.25
    assert not any(row["answer"] in ("0 0 * * *", "0 * * * *") for row in held_out)


# -------------------------------------------------------------------------------------------------------- tool calls
def test_tool_calls_name_given_tools_and_fit_their_schemas() -> None:
    import toolcall

    chance = random.Random(2)
    rows = toolcall._own_rows(chance, 60) + toolcall._made_up_rows(chance, 60)
    Task.of("calls", rows)
    for row in rows:
        (call,) = row["messages"][1]["tool_calls"]
        schema = {tool["name"]: tool["parameters"] for tool in row["tools"]}[call["name"]]
        assert not violations(call["arguments"], schema), row
        assert row["messages"][2]["content"]


def test_forms_leave_out_what_is_not_said_and_fit_their_schemas() -> None:
    from toolcall_forms import FORMS

    chance = random.Random(5)
    left_out = set()
    for form in FORMS:
        _, _, schema = form.spec
        optional = set(schema["properties"]) - set(schema["required"])
        for _ in range(40):
            question, arguments = form.draw(chance)
            assert not violations(arguments, schema), (question, arguments)
            assert "{" not in question
            left_out |= {(form.name, name) for name in optional - set(arguments)}
        assert {name for tool, name in left_out if tool == form.name} == optional


@pytest.mark.parametrize(
    ("draw", "said", "value"),
    [("_amount", r"[\d,.]+( million| thousand)?", int), ("_share", r"[\d.]+(%| percent)", float)],
)
def test_large_amounts_and_percents_are_written_as_numbers(draw: str, said: str, value: type) -> None:
    import toolcall_forms

    chance = random.Random(6)
    for _ in range(60):
        text, number = getattr(toolcall_forms, draw)(chance)
        assert re.fullmatch(said, text)
        assert type(number) is value
        plain = float(re.sub("[^0-9.]", "", text))
        scale = 1e6 if "million" in text else 1e3 if "thousand" in text else 0.01 if draw == "_share" else 1
        assert number == pytest.approx(plain * scale)


def test_results_are_what_the_tools_really_say() -> None:
    from toolcall_words import arithmetic, between_dates

    from plural.agents import toolbox

    chance = random.Random(4)
    for _, call, result, answer in [*arithmetic(chance, 40), *between_dates(chance, 20)]:
        assert str(toolbox.TOOLS[call["name"]].invoke(call["arguments"])) == result
        assert answer.startswith(result)


def test_functions_of_the_test_are_kept_out_of_training() -> None:
    pytest.importorskip("bfcl_eval")
    import toolcall

    apart = {tool.name for category in toolcall.KEPT_APART for row in toolcall.bfcl(category) for tool in row["tools"]}
    rows = toolcall._bfcl_rows(random.Random(0))
    assert len(rows) > 500
    rows += toolcall._formed_rows(random.Random(0), 200)
    assert not {tool["name"] for row in rows for tool in row["tools"]} & apart


def test_honest_rows_share_no_function_and_no_question_with_training() -> None:
    pytest.importorskip("bfcl_eval")
    import toolcall

    trained = {tool["name"] for row in toolcall.train_rows() for tool in row["tools"]}
    for category, least in (("simple_python", 390), ("multiple", 150), ("parallel", 120), ("live_simple", 20)):
        honest = toolcall.honest_rows(category)
        assert len(honest) >= least
        assert not {tool.name for row in honest for tool in row["tools"]} & trained
    assert len(toolcall.unread_rows("simple_python")) < 210


def test_the_gold_answers_pass_the_leaderboards_own_checker() -> None:
    pytest.importorskip("bfcl_eval")
    import toolcall

    judge = toolcall.ast_judge()
    rows = toolcall.test_rows("simple_python")
    right = [
        judge(row["functions"], row["row"]["messages"][1]["tool_calls"], row["truth"], "simple_python") for row in rows
    ]
    assert len(rows) == 400
    assert sum(right) >= 398


# ------------------------------------------------------------------------------------------------------------- plans
def test_a_plans_references_point_to_earlier_steps() -> None:
    import planner

    from plural.teams.planner import read_plan

    bits = [
        planner.Bit("turn it off", ["turn it off"]),
        planner.Bit("when will a job that runs daily run next", ["daily as cron", planner.RUNS_NEXT.format(1)]),
        planner.Bit("what is 3*4 and double it", ["what is 3*4", "double #1"]),
    ]
    row = planner.joined(bits, random.Random(0))
    steps = read_plan(row["answer"])
    assert [step.after for step in steps] == [(), (), (2,), (), (4,)]
    assert steps[2].task == "When does the cron expression #2 run next?"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("Could you turn on the fan, please?", "turn on the fan"),
        ("I need light in the attic.", "I need light in the attic"),
        ("Monday to Friday at 9", "Monday to Friday at 9"),
        ("What's 3 + 4?", "what's 3 + 4"),
    ],
)
def test_a_prompt_without_its_politeness(prompt: str, words: str) -> None:
    import planner

    assert planner.bare(prompt) == words


def test_prompts_for_nobody_are_many_and_the_held_out_ones_are_others() -> None:
    from general import HELD_OUT, PROMPTS

    assert len(set(PROMPTS)) == len(PROMPTS) >= 140
    assert len(HELD_OUT) >= 30
    assert not set(PROMPTS) & set(HELD_OUT)
