"""Times the studio's first paint in a real browser, from localhost, with nothing in the browser's cache.

    python benchmarks/paint.py             five times; needs Playwright and a Chromium, or the one in PLURAL_CHROMIUM

`painted` is the browser's own first contentful paint; `there` is when the specialists stand in the picture. Both in
milliseconds since the address was entered. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics

from playwright.sync_api import Browser, sync_playwright
from wire import served

from plural.wiring.network import Network

CHROMIUM = os.environ.get("PLURAL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    with Network.open() as network, served(network) as url, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        made = [looked(browser, url) for _ in range(given.times)]
        browser.close()
    for name in ("painted", "there"):
        each = [one[name] for one in made]
        print(f"{name:8} {statistics.median(each):6.0f} ms ({min(each):.0f} to {max(each):.0f})")
    print(json.dumps({"benchmark": "paint", "milliseconds": made}))


def looked(browser: Browser, url: str) -> dict[str, float]:
    page = browser.new_context().new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(".node:not(.base)")
    there = page.evaluate("performance.now()")
    painted = page.evaluate(_PAINTED)
    page.context.close()
    return {"painted": painted, "there": there}


if __name__ == "__main__":
    main()
