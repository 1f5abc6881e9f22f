"""The studio's files, as they are served: whole, the server's own, and under a policy that lets nothing else in."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from plural.serve.page import FILES, FOLDER
from tests.serve.tiny import Running, served, tiny_network

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
NAMED = re.compile(r"""(?:src|href)="(/[^"]*)"|(?:from|import) ?"(\./[^"]+)\"""")


def text_of(path: str) -> str:
    return FILES[path].body.decode()


def test_the_page_and_all_that_it_names_are_served(running: Running) -> None:
    found, queue = set(), ["/"]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        answer = httpx.get(running.url + path)
        assert answer.status_code == 200, path
        queue += [str(httpx.URL(running.url + path).join(a or b).path) for a, b in NAMED.findall(answer.text)]
    assert found == set(FILES), "every file is named by the page or by one of its modules"


def test_nothing_is_within_the_page_or_from_elsewhere(running: Running) -> None:
    for path, file in FILES.items():
        headers = httpx.get(running.url + path).headers
        assert headers["content-security-policy"].startswith(POLICY)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        elsewhere = re.findall(r"https?://[^\s\"'`)]+", file.body.decode())
        assert {url for url in elsewhere if "//www.w3.org/" not in url} == set(), path
    page = text_of("/")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=|javascript:", page)
    for path in FILES:
        assert path == "/" or "eval(" not in text_of(path).replace("(0,eval)(", "eval("), path
    assert "'unsafe" not in httpx.get(running.url).headers["content-security-policy"]


def test_it_is_small_and_its_source_can_be_read() -> None:
    own = [file for path, file in FILES.items() if "/vendor/" not in path]
    assert sum(len(file.body) for file in FILES.values()) < 300_000
    for file in own:
        assert len(file.body.splitlines()) <= 500, file.path
    licences = (FOLDER / "vendor" / "LICENSES.txt").read_text()
    for package in ("preact", "htm", "d3-force", "d3-scale", "d3-shape"):
        assert f"==== {package} " in licences


def test_what_a_browser_has_is_not_sent_again(running: Running) -> None:
    first = httpx.get(f"{running.url}/studio/app.js")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(f"{running.url}/studio/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(running.url).headers["content-length"] == str(len(FILES["/"].body))
    assert "/" not in httpx.get(f"{running.url}/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    "path", ["/studio/", "/studio/vendor/LICENSES.txt", "/studio/..%2Fpage.py", "/studio/../app.py"]
)
def test_no_other_file_can_be_asked_for(running: Running, path: str) -> None:
    assert httpx.get(running.url + path).status_code == 404


def test_the_page_opens_without_a_key_and_what_it_asks_does_not(tmp_path: Path) -> None:
    network = tiny_network(tmp_path)
    with served(network, key="secret") as running:
        for path in FILES:
            assert httpx.get(running.url + path).status_code == 200
        for path in ("/v1/library", "/metrics", "/studio/nothing.js", "/studio"):
            assert httpx.get(running.url + path).status_code == 401
        assert httpx.post(running.url).status_code == 405
    network.close()
