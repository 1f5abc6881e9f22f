"""The studio in a real browser against a real server: ask, watch, look again, train, try, publish, by mouse and by
keyboard.

Needs Playwright and a Chromium of the machine's (Debian: apt-get install chromium), or the one that PLURAL_CHROMIUM
names. PLURAL_SHOTS is a folder for screenshots, to be looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest

from plural.wiring.network import Network
from tests.serve.desk import desk, world
from tests.serve.planned import TASKS, planned_network
from tests.serve.tiny import Running, served, stage_specialist, tiny_network, with_evidence

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed.")
expect = playwright.expect
expect.set_options(timeout=60_000)  # for a machine that others use, too

CHROMIUM = os.environ.get("PLURAL_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
SHOTS = os.environ.get("PLURAL_SHOTS")
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}
ROWS = [{"prompt": f"{n} and {n % 7}?", "answer": f"sum {n + n % 7}."} for n in range(40)]

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="There is no Chromium here: apt-get install chromium, or name one in PLURAL_CHROMIUM."
)


@contextmanager
def open_for_visits(network: Network, home: Path) -> Iterator[Running]:
    with served(network, records=home / "records.sqlite", offers=desk(network, home)) as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    with open_for_visits(tiny_network(home, max_tokens=8, journal=home / "journal.db"), home) as running:
        yield running


@pytest.fixture(scope="module")
def counted() -> threading.Event:
    """Until it is set, clerk has not counted yet."""
    return threading.Event()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, counted: threading.Event) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("planned")
    network = planned_network(home, counted, max_tokens=8, journal=home / "journal.db")
    with open_for_visits(network, home) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def is_wrong(said: Any) -> bool:
    """What the server refuses is told on the page; Chromium tells it once more."""
    return said.type in ("error", "warning") and "409 (Conflict)" not in said.text


@pytest.fixture
def visiting(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a view of a server; nothing may go wrong in the page, a breach of its policy included."""
    wrong: list[str] = []
    contexts = []

    def open_view(running: Running, view: str = "ask", **options: Any) -> Any:
        context = browser.new_context(**({"viewport": DESK} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: is_wrong(said) and wrong.append(said.text))
        page.on("request", lambda asked: asked.url.startswith(running.url) or wrong.append(asked.url))
        page.goto(f"{running.url}/#{view}")
        expect(page.get_by_role("link", name="judge,")).to_be_visible()
        return page

    yield open_view
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def opened(visiting: Callable[..., Any], running: Running) -> Callable[..., Any]:
    return lambda *view, **options: visiting(running, *view, **options)


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png")


def ask(page: Any, prompt: str, model: str) -> None:
    page.get_by_role("combobox", name="Ask").select_option(model)
    page.get_by_label("What you want").fill(prompt)
    page.keyboard.press("Enter")


def answer_of(page: Any, model: str) -> Any:
    """When it is whole."""
    answer = page.get_by_role("region", name=f"Answer of {model}")
    expect(answer).to_have_attribute("aria-busy", "false")
    return answer


def test_a_specialist_is_asked_beside_the_base(opened: Callable[..., Any], running: Running) -> None:
    page = opened()
    page.get_by_label("beside the base").check()
    ask(page, "is this fair", "judge")
    expect(answer_of(page, "judge").locator(".said")).to_have_text(
        running.network.agent("judge").invoke("is this fair")
    )
    expect(answer_of(page, "base").locator(".cost")).to_contain_text("8 tokens")
    expect(page.get_by_role("link", name="judge, not scored, done")).to_be_visible()
    shot(page, "ask")


def test_the_network_shows_who_was_probable_and_the_run_can_be_looked_at_again(
    opened: Callable[..., Any], running: Running
) -> None:
    page = opened()
    ask(page, "who is right", "network")
    answer = answer_of(page, "network")
    events = list(running.network.stream("who is right"))
    for option in events[0].decision.options:
        expect(answer.locator(".route")).to_contain_text(f"{option.value} {option.probability:.2f}")
        expect(page.locator("aside svg[role=group]")).to_contain_text(f"{option.probability:.2f}")
    slider = answer.get_by_label("Look again")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(f"{len(events)} of {len(events)}: RunFinished"))
    slider.focus()
    page.keyboard.press("Home")
    expect(answer.locator("output")).to_contain_text("Routed")
    expect(answer.locator(".said")).to_have_count(0)
    shot(page, "watch")
    page.keyboard.press("End")
    expect(answer.locator(".said")).to_have_count(1)
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("heading", name="Ask the network")).to_be_visible()


def node_of(page: Any, name: str) -> Any:
    return page.locator(".node").filter(has=page.locator(".name", has_text=re.compile(f"^{name}$")))


def test_a_plan_is_watched_step_by_step_and_looked_at_again(
    visiting: Callable[..., Any], planned: Running, counted: threading.Event
) -> None:
    counted.clear()
    page = visiting(planned)
    ask(page, "planner, how long is it?", "network")
    answer = page.get_by_role("region", name="Answer of network")
    expect(answer.get_by_role("list", name="The plan").get_by_role("listitem")).to_have_text(TASKS)
    step = answer.locator(".step")
    expect(step).to_have_count(1)
    expect(step.locator("header b")).to_have_text(["1", "clerk"])
    expect(step.locator("header small")).to_have_text("calling")
    expect(step.locator(".call")).to_contain_text('days(start="2026-01-01", end="2026-03-01")')
    expect(node_of(page, "clerk")).to_have_class(re.compile(r"\blit\b"))
    expect(node_of(page, "clerk").locator(".tool")).to_have_text("days")
    expect(page.get_by_role("link", name="planner, not scored, done")).to_be_visible()
    expect(page.locator("aside").get_by_role("status")).to_have_text("clerk")
    expect(page.locator(".handover")).to_have_count(0)
    shot(page, "plan-calling")
    counted.set()
    answer_of(page, "network")
    judged = planned.network.ask("judge whether 59 days is fair", to="judge")
    expect(step.locator(".call")).to_contain_text("→ 59")
    expect(step.locator(".task")).to_have_text([TASKS[0], "judge whether 59 days is fair", f"base, what of {judged}?"])
    expect(step.nth(1).locator(".text")).to_have_text(judged)
    for number, name in enumerate(("clerk", "judge"), start=1):
        expect(node_of(page, name).locator(".badge")).to_have_text(str(number))
    expect(page.locator(".handover.given")).to_have_count(2)
    expect(page.locator(".node .tool")).to_have_count(0)
    shot(page, "plan-done")
    answer.get_by_label("Look again").focus()
    page.keyboard.press("Home")
    for _ in range(4):  # Routed, Planned, Routed, StepStarted, ToolCalled
        page.keyboard.press("ArrowRight")
    expect(answer.locator("output")).to_contain_text("ToolCalled")
    expect(node_of(page, "clerk").locator(".tool")).to_have_text("days")
    expect(page.locator(".handover")).to_have_count(0)


def test_what_was_found_in_the_cache_lights_up_in_a_way_of_its_own(opened: Callable[..., Any]) -> None:
    page = opened(reduced_motion="reduce")
    expect(page.get_by_role("list", name="Legend")).to_contain_text("prompt found in the cache")
    asked = "is this fair, and is it as fair as what was asked a moment ago by somebody else"
    rings = page.locator("aside [role=group] .found")
    page.get_by_label("beside the base").uncheck()
    for _ in range(2):
        ask(page, asked, "judge")
        expect(page.locator(".answer[aria-busy=false]")).to_have_count(_ + 1)
    told = re.compile(r"^judge, not scored, done, (\d+) of (\d+) tokens found in the cache$")
    link = page.get_by_role("link", name=told)
    cached, prompt = map(int, told.match(link.get_attribute("aria-label")).groups())
    expect(page.locator(".cost").last).to_contain_text(f"{cached} of {prompt} cached")
    assert 0 < cached < prompt
    expect(link.locator(".found")).to_have_count(1)
    expect(page.get_by_role("link", name=f"The base, .*, {cached} of {prompt} tokens")).to_have_count(0)
    expect(node_of(page, "base").locator(".found")).to_have_count(1)
    expect(rings).to_have_count(2)
    assert page.evaluate("getComputedStyle(document.querySelector('.node .found')).animationName") == "none"
    shot(page, "cached")
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate("getComputedStyle(document.querySelector('.node .found')).animationName") == "found"
    ask(page, "something else", "clerk")
    answer_of(page, "clerk")
    expect(link).to_have_count(0)


DOT = """dot => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = getComputedStyle(dot).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def test_every_skill_has_a_colour_of_its_own_and_is_larger_the_more_it_is_asked(
    visiting: Callable[..., Any], tmp_path: Path
) -> None:
    network = tiny_network(tmp_path, max_tokens=2)
    for seed in range(10):
        made = stage_specialist(tmp_path / f"s{seed}", network.base_model, seed=seed, name=f"skill{seed}")
        network.library.publish(made, name=f"skill{seed}", replace=False)
    with served(network) as running:
        page = visiting(running, "library", color_scheme="light")
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colours = [dot.evaluate(DOT) for dot in page.locator(".shelf .dot").all()]
            assert len(colours) == 12
            for one, other in combinations(colours, 2):
                far = sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
                assert far > 30, (scheme, colours.index(one), colours.index(other), far)

        def radius(name: str) -> float:
            return float(node_of(page, name).locator(".body").get_attribute("r"))

        assert radius("skill3") == radius("skill4")
        for name in ("skill3", "skill3", "skill3", "skill3", "skill4"):
            asked = {"model": name, "messages": [{"role": "user", "content": "go"}]}
            assert httpx.post(f"{running.url}/v1/chat/completions", json=asked).status_code == 200
        expect(page.locator(".node.lit", has_text="skill4")).to_be_visible()
        least, some, most = radius("skill5"), radius("skill4"), radius("skill3")
        assert (some - least) == pytest.approx((most - least) / 2)  # areas compare
        page.close()
    network.close()


def test_what_other_clients_ask_lights_up_too(opened: Callable[..., Any], running: Running) -> None:
    page = opened("gauges")
    expect(page.get_by_role("heading", name="By model")).to_be_visible()
    asked = {"model": "clerk", "messages": [{"role": "user", "content": "file it"}]}
    assert httpx.post(f"{running.url}/v1/chat/completions", json=asked).status_code == 200
    expect(page.locator(".node.lit", has_text="clerk")).to_be_visible()
    expect(page.get_by_role("rowheader", name="clerk")).to_be_visible()
    shot(page, "gauges")


def test_a_specialist_is_trained_from_a_dropped_file_and_tried(opened: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "Adder rows.jsonl"
    file.write_text("\n".join([*map(json.dumps, ROWS), "no example"]))
    page = opened("train")
    zone = page.locator(".drop")
    dropped = page.evaluate_handle(
        """([name, text]) => {
          const data = new DataTransfer();
          data.items.add(new File([text], name));
          return data;
        }""",
        [file.name, file.read_text()],
    )
    zone.dispatch_event("dragover", {"dataTransfer": dropped})
    expect(zone).to_have_class("drop over")
    zone.dispatch_event("drop", {"dataTransfer": dropped})
    expect(zone).to_have_class(re.compile(r"^drop\s*$"))
    expect(zone).to_contain_text("40 examples")
    expect(page.get_by_role("alert")).to_have_text("Line 41: no example.")
    assert page.get_by_label("Name", exact=True).input_value() == "adder-rows"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    page.get_by_label("Adder rows.jsonl").set_input_files(file)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_label("What it is for").fill("Adds small numbers.")
    page.locator("summary", has_text="More").click()
    page.get_by_label("Steps at most").fill("4")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("img", name=re.compile(r"Loss by step; now \d"))).to_be_visible()
    expect(page.locator(".job em")).to_have_text("succeeded")
    expect(page.get_by_role("table", name="Scores on held-out rows").get_by_role("row")).to_have_count(2)
    shot(page, "train")
    assert page.get_by_label("What to ask it").input_value() == ROWS[-1]["prompt"]
    page.get_by_role("button", name="Ask beside the base").click()
    answer_of(page, "adder-rows")
    answer_of(page, "base")
    page.get_by_role("link", name="adder-rows,").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="adder-rows")).to_be_visible()
    expect(page.locator("main")).to_contain_text("Adds small numbers.")
    shot(page, "card")


def begin(page: Any, what: str, model: str) -> None:
    page.get_by_label("What is to be done").fill(what)
    page.get_by_label("By").select_option(model)
    page.get_by_role("button", name="Start").click()


def expect_status(page: Any, status: str) -> None:
    expect(page.get_by_role("status").filter(has=page.locator("em"))).to_have_text(status)


def test_a_run_asks_for_approval_goes_on_and_is_looked_at_again(opened: Callable[..., Any], running: Running) -> None:
    page = opened("runs")
    begin(page, "Pay 23", "payer")
    asks = page.get_by_role("region", name="May this call be made?")
    expect(asks).to_contain_text("payer wants to call pay")
    expect_status(page, "waiting")
    shot(page, "run-asks")
    page.reload()
    asks.get_by_label("Arguments").fill('{"amount": 24')
    asks.get_by_role("button", name="Approve").click()
    expect(asks.get_by_role("alert")).to_have_text("The arguments are no JSON.")
    asks.get_by_label("Arguments").fill('{"amount": 24}')
    asks.get_by_role("button", name="Approve").click()
    expect_status(page, "finished")
    expect(page.locator(".outcome")).to_have_text("It came to this: paid 24")
    home = running.network.settings.journal.parent
    assert [line for line in world(home) if line in ("paid 23", "paid 24")] == ["paid 24"]
    timeline = page.get_by_role("list", name="Timeline")
    expect(timeline.get_by_role("listitem").last).to_contain_text("finished")  # events come after the status
    whole = timeline.get_by_role("listitem").count()
    slider = page.get_by_label("Look again")
    slider.focus()
    page.keyboard.press("Home")
    expect(timeline.get_by_role("listitem")).to_have_count(1)
    expect(page.locator(".outcome")).to_have_count(0)
    page.keyboard.press("ArrowRight")
    expect(timeline).to_contain_text("begins")
    shot(page, "run-slider")
    page.get_by_role("button", name="Play").click()
    expect(timeline.get_by_role("listitem")).to_have_count(whole)
    shot(page, "run-finished")


def test_a_call_is_denied_and_the_model_is_told_why(opened: Callable[..., Any], running: Running) -> None:
    page = opened("runs")
    begin(page, "Pay 31", "payer")
    asks = page.get_by_role("region", name="May this call be made?")
    asks.get_by_label("Reason, if you deny").fill("Too much.")
    asks.get_by_role("button", name="Deny").click()
    expect_status(page, "finished")
    expect(page.locator(".outcome")).to_contain_text("Too much.")
    expect(asks).to_have_count(0)
    assert "paid 31" not in world(running.network.settings.journal.parent)
    shot(page, "run-denied")


@pytest.mark.parametrize(
    ("button", "filled", "came", "times"),
    [
        ("It was done", "", "It came to this: ", 1),
        ("It was done", "sent, says Bob", "It came to this: sent, says Bob", 1),
        ("Do it again", "", "It came to this: sent ", 2),
    ],
)
def test_a_person_says_what_became_of_a_call_that_was_cut_off(
    opened: Callable[..., Any], running: Running, button: str, filled: str, came: str, times: int
) -> None:
    letter, home = f"Dear {button}{filled}", running.network.settings.journal.parent
    page = opened("runs")
    begin(page, letter, "sender")
    expect(page.get_by_role("list", name="Timeline")).to_contain_text("send(letter=")
    for _ in range(200):
        if f"sent {letter}" in world(home):
            break
        page.wait_for_timeout(25)
    page.get_by_role("button", name="Cancel").click()
    expect_status(page, "cancelled")
    page.get_by_role("button", name="Resume").click()
    asks = page.get_by_role("region", name="Was it done?")
    expect(asks.get_by_role("region", name="What is asked")).to_contain_text("send")
    asks.get_by_label("What it returned").fill(filled)
    shot(page, "run-outcome")
    asks.get_by_role("button", name=button).click()
    expect_status(page, "finished")
    expect(page.locator(".outcome")).to_contain_text(came)
    assert world(home).count(f"sent {letter}") == times


def test_a_person_answers_by_keyboard_and_a_run_is_cancelled_and_gone_on_with(opened: Callable[..., Any]) -> None:
    page = opened("runs")
    begin(page, "Paint the door", "talkers")
    asks = page.get_by_role("region", name="You are asked")
    expect(asks).to_contain_text("Which colour?")
    asks.get_by_label("Your answer").fill("green")
    page.keyboard.press("Enter")
    expect_status(page, "finished")
    expect(page.locator(".outcome")).to_have_text("green")
    page.get_by_role("link", name="← Runs").click()
    begin(page, "Wait a while", "slow")
    expect(page.get_by_role("list", name="Timeline")).to_contain_text("wait(seconds=600)")
    page.get_by_role("button", name="Cancel").click()
    expect_status(page, "cancelled")
    page.get_by_role("button", name="Resume").click()
    expect_status(page, "running")
    expect(page.get_by_role("list", name="Timeline")).to_contain_text("gone on with")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("link", name="← Runs").click()
    listed = page.get_by_role("list", name="Runs, newest first").get_by_role("listitem")
    expect(listed.first).to_contain_text("Wait a while")
    expect(listed.first).to_contain_text("cancelled")
    shot(page, "runs")


def test_a_run_is_forked_at_an_event_with_another_specialist(opened: Callable[..., Any]) -> None:
    page = opened("runs")
    begin(page, "is this fair", "clerk")
    expect_status(page, "finished")
    page.get_by_label("Look again").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("output")).to_contain_text("StepStarted")
    page.get_by_label("Who goes on").select_option("judge")
    page.get_by_role("button", name="Fork").click()
    expect(page.get_by_role("link", name=re.compile("forked at"))).to_be_visible()
    expect_status(page, "finished")
    expect(page.locator(".outcome")).to_have_text(re.compile("^(yes|no)$"))
    expect(page.locator("main")).to_contain_text("gone on with by judge")
    shot(page, "run-forked")


def test_teams_are_constellations(opened: Callable[..., Any], running: Running) -> None:
    agents = [{"name": f"my-{name}", "specialist": name} for name in ("judge", "clerk")]
    steps = [{"task": "judge it", "agents": ["my-judge"]}, {"task": "file it", "agents": ["my-clerk"], "inputs": [1]}]
    url = f"{running.url}/v1/teams/court"
    plain = {"observers": False, "refinement": False, "memory": False}
    team = {"task": "settle it", "agents": agents, "steps": steps, "ways": plain}
    assert httpx.post(url, json=team).status_code == 200
    try:
        page = opened()
        link = page.get_by_role("list", name="Teams").get_by_role("link", name="team/court")
        expect(page.locator(".constellation path")).to_have_attribute("d", re.compile(r"^M[\d. ]+Q[-\d. ]+$"))
        link.focus()
        expect(page.locator(".constellation.here")).to_have_count(1)
        shot(page, "teams")
        link.click()
        expect(page.get_by_role("combobox", name="Ask")).to_have_value("team/court")
        ask(page, "settle it", "team/court")
        answer = answer_of(page, "team/court")
        expect(answer.locator(".said")).not_to_be_empty()
        expect(answer.locator(".step header b")).to_have_text(["1", "my-judge", "2", "my-clerk"])
        expect(answer.locator(".step .task").first).to_have_text("judge it")
        for number, name in enumerate(("judge", "clerk"), start=1):
            expect(node_of(page, name).locator(".badge")).to_have_text(str(number))
            expect(node_of(page, name)).to_have_class(re.compile(r"\bdone\b"))
            (hue,) = re.findall(r"skill-\d+", node_of(page, name).get_attribute("class"))
            expect(answer.locator(".step").nth(number - 1)).to_have_class(f"step {hue} done")
        expect(page.locator(".handover.given")).to_have_count(1)
        shot(page, "team-done")
    finally:
        assert httpx.delete(url).status_code == 200


def test_the_agents_of_a_team_that_is_asked_by_name_are_seen_at_work(opened: Callable[..., Any]) -> None:
    page = opened()
    ask(page, "Book it for watched", "ledgers")
    steps = answer_of(page, "ledgers").locator(".step")
    expect(steps.locator("header b:nth-of-type(2)")).to_have_text(["first", "second", "third"])
    expect(steps.first.locator(".call").first).to_contain_text('book(line="watched first a") → booked watched first a')
    expect(steps.nth(1).locator(".text")).to_contain_text("second has done watched")
    answer_of(page, "ledgers").get_by_label("Look again").focus()
    page.keyboard.press("Home")
    expect(steps).to_have_count(1)
    page.keyboard.press("End")
    ask(page, "My lamp!", "relay")
    steps = answer_of(page, "relay").locator(".step")
    expect(steps.locator(".text")).to_have_text(["finisher, go on: The lamp is broken.", "It works again."])
    ask(page, "Pay 5", "payer")
    expect(answer_of(page, "payer").get_by_role("alert")).to_contain_text("Start a run")
    expect(page.locator(".node.lit")).to_have_count(0)
    shot(page, "team-asked")


def test_a_version_is_published_through_the_gate_gone_back_from_and_kept_in_memory(
    visiting: Callable[..., Any], tmp_path: Path
) -> None:
    network = tiny_network(tmp_path, max_tokens=4)
    library, asked = network.library, [f"where is form {number}" for number in range(12)]
    first = network.specialist("clerk")
    said = {"none": "what nobody says", "first": None}
    for seed, (name, expected) in enumerate(said.items(), start=41):
        staged = stage_specialist(tmp_path / name, network.base_model, seed=seed, name="clerk")
        answers = {one: expected or first.invoke(one).text for one in asked}
        library.keep(with_evidence(staged, answers), name="clerk")
    with served(network) as running:
        page = visiting(running, "library/clerk")
        versions = page.locator(".versions li")
        expect(versions).to_have_count(3)
        told = page.locator("main").get_by_role("status")

        def publish(version: int) -> None:
            row = versions.filter(has_text=f"clerk@{version}")
            row.get_by_role("button", name="Publish, if not worse").click()

        def stands(version: int) -> None:
            expect(versions.filter(has_text="answers now")).to_contain_text(f"clerk@{version}")
            assert library.get("clerk").card.version == version

        stands(1)
        publish(3)
        expect(told).to_contain_text("'clerk' was not promoted: it is not shown to be not worse than version 1")
        stands(1)
        shot(page, "publish-refused")
        publish(2)
        expect(told).to_contain_text("clerk@2 - version 1: +0.000 [+0.000, +0.000], n = 12")
        stands(2)
        shot(page, "published")
        page.get_by_role("button", name="Roll back").click()
        expect(told).to_have_text("Done.")
        stands(1)
        page.get_by_role("button", name="Roll back").click()
        expect(told).to_contain_text("has no earlier version")
        assert not network.engine.stats().pages_used
        page.get_by_role("button", name="Keep in memory").click()
        expect(told).to_have_text("Done.")
        assert library.get("clerk").digest in network.engine.stats().adapters
        assert network.engine.stats().pages_used > 0
        page.close()
    network.close()


def test_a_refusal_is_told(browser: Any, running: Running, tmp_path: Path) -> None:
    file = tmp_path / "judge.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    page = browser.new_page()
    page.goto(f"{running.url}/#train")
    page.get_by_label("Drop a JSONL file here").set_input_files(file)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The name 'judge' is taken.")
    page.close()


def test_a_key_is_asked_for_where_the_server_wants_one(browser: Any, tmp_path: Path) -> None:
    network = tiny_network(tmp_path)
    with served(network, key="the key") as running:
        page = browser.new_page()
        page.goto(running.url)
        for key, told in (("wrong", "This key is not known."), ("the key", "")):
            page.locator("dialog input").fill(key)
            page.get_by_role("button", name="Open").click()
            if told:
                expect(page.get_by_role("alert")).to_have_text(told)
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.get_by_role("link", name="judge,")).to_be_visible()
        page.close()
    network.close()


# By what two widths or two schemes can differ; all other rules need a page once in each.
LOOKS = ["color-contrast", "link-in-text-block", "target-size", "scrollable-region-focusable", "meta-viewport"]


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["looks-of-four", "all-of-four"]
)
def test_every_view_is_accessible_and_fits(
    visiting: Callable[..., Any], planned: Running, counted: threading.Event, tmp_path: Path, every: bool
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed.").Axe()
    counted.set()
    page = visiting(planned)
    ask(page, "planner, how long is it?", "network")
    expect(answer_of(page, "network").locator(".step")).to_have_count(3)
    page.evaluate("location.hash = 'runs'")
    begin(page, "Pay 3", "payer")
    expect_status(page, "waiting")
    run = page.evaluate("location.hash.slice(1)")
    page.evaluate("location.hash = 'train'")
    file = tmp_path / f"adder{every}.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    page.get_by_label("Drop a JSONL file here").set_input_files(file)
    page.locator("summary", has_text="More").click()
    page.get_by_label("Steps at most").fill("4")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".job em")).to_have_text("succeeded")
    expect(page.get_by_role("img", name=re.compile(r"Loss by step; now \d"))).to_be_visible()
    wanted = {"ask": ".plan li", run: ".question", "library/clerk": ".versions li", "train": ".job .chart"}
    for view in ("ask", "runs", run, "library", "library/clerk", "library/base", "train", "gauges"):
        page.evaluate("view => { location.hash = view }", view)
        expect(page.locator("main h1").first).to_be_attached()
        if view in wanted:
            expect(page.locator(wanted[view]).first).to_be_visible()
        for viewport in (PHONE, DESK):
            page.set_viewport_size(viewport)
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], view
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                whole = every or (viewport, scheme) in ((PHONE, "light"), (DESK, "dark"))
                found = axe.run(page, options={"resultTypes": ["violations"]} | ({} if whole else {"runOnly": LOOKS}))
                assert found.violations_count == 0, f"{view}, {scheme}: {found.generate_report()}"
                shot(page, f"{view.replace(run, 'run').replace('/', '-')}-{scheme}-{viewport['width']}")
