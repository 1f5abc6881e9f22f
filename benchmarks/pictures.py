"""Photographs the studio at work with the starter library: `make pictures` writes docs/images/studio-*.png.

    python benchmarks/pictures.py [FOLDER]       minutes; needs Playwright, Pillow and a Chromium (or PLURAL_CHROMIUM)

A question that is planned, its run looked at again, a call that waits for approval, the library, a training, and its
second version at the gate. Each picture is to be looked at before it is kept.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import httpx
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

CHROMIUM = os.environ.get("PLURAL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[1]
PLANNED = "When will a job that runs every weekday at 7:30 in the morning run next?"
WORDS = ("broken", "late", "lost", "wrong size", "paid twice", "no answer", "torn box", "missing part")
SIZE: ViewportSize = {"width": 1280, "height": 800}
PATIENCE = 600_000  # milliseconds for a training or the gate


def main(folder: Path = ROOT / "docs" / "images") -> None:
    with tempfile.TemporaryDirectory() as home, served(Path(home)) as url, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        for number, take in enumerate((ask, replay, approve, library, train, publish)):
            scheme: Literal["light", "dark"] = "light" if number % 2 else "dark"
            page = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()
            page.goto(url)
            expect(page.get_by_role("link", name="cron,")).to_be_visible(timeout=PATIENCE)
            take(page, Path(home))
            page.wait_for_timeout(700)  # until what grows has grown
            file = folder / f"studio-{take.__name__}.png"
            keep(page, file)
            print(f"{file.name}, {file.stat().st_size / 1000:.0f} KB", flush=True)
            page.context.close()
        browser.close()


@contextmanager
def served(home: Path) -> Iterator[str]:
    """`plural serve` as it is, with the agent of docs/serving.md."""
    (block,) = re.findall(r"```python\n([^`]*def buyer[^`]*)```", (ROOT / "docs" / "serving.md").read_text())
    (home / "shop.py").write_text(block)
    places = ["--port", "0", "--library", str(home / "library"), "--data", str(home / "data")]
    command = [sys.executable, "-m", "plural.cli", "serve", "--offer", "shop:buyer", "--json", *places]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(home), str(ROOT)])}
    with (
        (home / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["listening"]
            for name in ("network", "cron", "cron", "home", "linear"):  # so that they are not all of one size
                say(url, name)
            yield url
        finally:
            process.terminate()


def say(url: str, model: str) -> None:
    asked = {"model": model, "messages": [{"role": "user", "content": "Turn on the fan at noon."}]}
    httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).raise_for_status()


def keep(page: Page, file: Path) -> None:
    """In 256 colours, half of them the commonest as they are, without the gradient behind the network: a fifth of the
    bytes."""
    page.evaluate("document.querySelector('aside').style.background = 'var(--paper)'")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    counted = sorted(picture.getcolors(SIZE["width"] * SIZE["height"]) or [], reverse=True)
    common = [level for _, colour in counted[:128] for level in cast(tuple[int, ...], colour)]
    rest = picture.quantize(128, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(common + rest[: 3 * 128])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(file, optimize=True)


# --------------------------------------------------------------------------------------------------------- the pictures
def ask(page: Page, _: Path) -> None:
    """While the second step is at work."""
    page.get_by_label("What you want").fill(PLANNED)
    page.keyboard.press("Enter")
    expect(page.locator(".step")).to_have_count(2, timeout=PATIENCE)
    page.wait_for_selector(".step:last-child.calling, .step:last-child.speaking, .step:last-child.done")


def begin(page: Page, request: str, model: str) -> None:
    page.evaluate("location.hash = 'runs'")
    page.get_by_label("What is to be done").fill(request)
    page.get_by_label("By").select_option(model)
    page.get_by_role("button", name="Start").click()


def replay(page: Page, _: Path) -> None:
    begin(page, PLANNED, "network")
    expect(page.locator(".run-page .status")).to_have_text("finished", timeout=PATIENCE)
    slider = page.get_by_label("Look again")
    slider.focus()
    while "ToolReturned" not in page.locator(".player output").inner_text():
        page.keyboard.press("ArrowLeft")


def approve(page: Page, _: Path) -> None:
    begin(page, "Order 12 hammers", "buyer")
    expect(page.get_by_role("region", name="May this call be made?")).to_be_visible(timeout=PATIENCE)


def library(page: Page, _: Path) -> None:
    page.evaluate("location.hash = 'library'")
    expect(page.locator(".shelf li")).to_have_count(9)


def order(page: Page, home: Path, seed: int, replace: bool) -> None:
    """Trains "tickets": which of two desks a complaint goes to."""
    draw = random.Random(seed)
    made = [" and ".join(draw.sample(WORDS, 2)) for _ in range(200)]
    rows = [{"prompt": f"{one}, order {draw.randrange(10**6)}", "answer": "billing" if "paid" in one else "parcels"}
            for one in made]  # fmt: skip
    file = home / "tickets.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    page.evaluate("location.hash = 'train'")
    page.get_by_label("Drop a JSONL file here").set_input_files(file)
    page.get_by_label("What it is for").fill("Sends a complaint to the right desk.")
    page.locator("summary", has_text="More").click()
    page.get_by_label("Steps at most").fill("24")
    if replace:
        page.get_by_label("may take over its name").check()
    page.get_by_role("button", name="Train", exact=True).click()


def train(page: Page, home: Path) -> None:
    order(page, home, 0, replace=False)
    expect(page.locator(".job em")).to_have_text(re.compile("succeeded|failed"), timeout=PATIENCE)
    page.locator(".job").scroll_into_view_if_needed()


def publish(page: Page, home: Path) -> None:
    """The second version has taken over the name or was refused; the first one is asked to take it back."""
    order(page, home, 1, replace=True)
    expect(page.locator(".job em")).to_have_text(re.compile("succeeded|failed"), timeout=PATIENCE)
    page.evaluate("location.hash = 'library/tickets'")
    page.get_by_role("button", name="Publish, if not worse").click()
    told: Any = page.locator("main").get_by_role("status")
    expect(told).to_contain_text(re.compile("tickets"), timeout=PATIENCE)
    told.scroll_into_view_if_needed()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
