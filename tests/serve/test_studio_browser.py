"""The studio in a real browser against a real server: ask, watch, look again, train, try, by mouse and by keyboard.

Needs Playwright and a Chromium of the machine's (Debian: apt-get install chromium), or the one that PLURAL_CHROMIUM
names. PLURAL_SHOTS is a folder for screenshots, to be looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.desk import desk, world
from tests.serve.tiny import Running, served, tiny_network

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed.")
expect = playwright.expect

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


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    network = tiny_network(home, max_tokens=8, journal=home / "journal.db")
    with served(network, records=home / "records.sqlite", offers=desk(network, home)) as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, running: Running) -> Iterator[Callable[..., Any]]:
    """Opens a view; nothing may go wrong in the page, a breach of its policy included."""
    wrong: list[str] = []
    contexts = []

    def open_view(view: str = "ask", **options: Any) -> Any:
        context = browser.new_context(**({"viewport": DESK} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
        page.on("request", lambda asked: asked.url.startswith(running.url) or wrong.append(asked.url))
        page.goto(f"{running.url}/#{view}")
        expect(page.get_by_role("link", name="judge,")).to_be_visible()
        return page

    yield open_view
    for context in contexts:
        context.close()
    assert not wrong


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
        expect(page.locator("aside svg")).to_contain_text(f"{option.probability:.2f}")
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
    page.get_by_label("Drop a JSONL file here").set_input_files(file)
    expect(page.get_by_role("alert")).to_have_text("Line 41: no example.")
    assert page.get_by_label("Name", exact=True).input_value() == "adder-rows"
    file.write_text("\n".join(map(json.dumps, ROWS)))
    page.get_by_label("Adder rows.jsonl").set_input_files(file)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_label("What it is for").fill("Adds small numbers.")
    page.locator("summary", has_text="More").click()
    page.get_by_label("Steps at most").fill("4")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("img", name=re.compile(r"Loss by step; now \d"))).to_be_visible(timeout=60_000)
    expect(page.locator(".job em")).to_have_text("succeeded", timeout=60_000)
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
        expect(answer_of(page, "team/court").locator(".said")).not_to_be_empty()
    finally:
        assert httpx.delete(url).status_code == 200


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


@pytest.mark.parametrize(
    ("viewport", "scheme"),
    [
        (PHONE, "light"),
        (DESK, "dark"),
        pytest.param(PHONE, "dark", marks=pytest.mark.slow),
        pytest.param(DESK, "light", marks=pytest.mark.slow),
    ],
    ids=["phone-light", "desk-dark", "phone-dark", "desk-light"],
)
def test_every_view_is_accessible_and_fits(opened: Callable[..., Any], viewport: dict[str, int], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed.").Axe()
    page = opened(color_scheme=scheme, viewport=viewport)
    ask(page, "who is right", "network")
    answer_of(page, "network")
    page.evaluate("location.hash = 'runs'")
    begin(page, "Pay 3", "payer")
    expect_status(page, "waiting")
    run = page.evaluate("location.hash.slice(1)")
    for view in ("ask", "runs", run, "library", "library/judge", "library/base", "train", "gauges"):
        page.evaluate("view => { location.hash = view }", view)
        expect(page.locator("main h1").first).to_be_attached()
        found = axe.run(page)
        assert found.violations_count == 0, f"{view}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], view
        shot(page, f"{view.replace(run, 'run').replace('/', '-')}-{scheme}-{viewport['width']}")
