"""Reading the web: only hosts on a list, only public addresses, only so much and so long."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from langchain_core.tools import BaseTool, ToolException

from plural.agents.marks import mark
from plural.agents.toolbox import ranking
from plural.agents.toolbox.addresses import Gate, Resolve, gate
from plural.agents.toolbox.html import Page, read_html
from plural.agents.tools import tool
from plural.errors import SettingsError

if TYPE_CHECKING:
    from plural.agents.toolbox.get import Reply

_REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_PAGES_AT_ONCE = 4
_RESULTS = 5
_TEXTUAL = re.compile(r"text/|application/(.+\+)?(json|xml)\b")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reader:
    """Fetches pages. `seconds` is for one page, redirects and name look-ups included."""

    gate: Gate
    seconds: float
    max_bytes: int

    async def page(self, url: str) -> tuple[str, Page]:
        """(the URL that it was found at in the end, the page).

        Raises:
            ToolException: what may not be read, or is not there. It names the URL.
            ConnectionError: no answer this time.
        """
        try:
            async with asyncio.timeout(self.seconds):
                return await self._page(url)
        except TimeoutError as error:
            raise ToolException(f"url = {url!r} did not answer within {self.seconds:g} s") from error

    async def _page(self, url: str) -> tuple[str, Page]:
        from plural.agents.toolbox.get import get

        asked = url
        for _ in range(_REDIRECTS + 1):
            target = self.gate.target(url)
            addresses = await self.gate.addresses(target)
            try:
                reply = await get(url, addresses, seconds=self.seconds, max_bytes=self.max_bytes)
            except OSError as error:
                raise ConnectionError(f"url = {url!r} could not be read: {error}") from error
            if reply.status not in _MOVED or "location" not in reply.headers:
                return url, await _read(url, reply)
            url = urljoin(url, reply.headers["location"])
            if target.secure and not self.gate.target(url).secure:
                raise ToolException(f"url = {asked!r} redirects from https to {url!r}")
        raise ToolException(f"url = {asked!r} redirects more than {_REDIRECTS} times")


def web(
    hosts: Sequence[str],
    *,
    networks: Sequence[str] = (),
    start: Sequence[str] | None = None,
    seconds: float = 10.0,
    max_bytes: int = 1_000_000,
    max_characters: int = 8000,
    max_pages: int = 12,
    resolve: Resolve | None = None,
) -> list[BaseTool]:
    """The tools `fetch` and `search_web` for the hosts on a list.

    Args:
        hosts: names (docs.python.org), all below a name (*.wikipedia.org), or addresses; with a port where it is not
            80 or 443 (localhost:8000).
        networks: networks that are not public and may be read all the same (127.0.0.0/8). Without them loopback,
            private, link-local and metadata addresses are refused, whatever name leads to them.
        start: the pages from which a search begins. Default: the first page of every host that is no pattern.
        seconds: for one page, and for a search twice that.
        max_bytes: of a page that are read.
        max_characters: of a page's text that are shown at once.
        max_pages: that one search reads.
        resolve: how names become addresses. Default: the system's way.

    Raises:
        SettingsError: no host, or something that is no host, network or limit.
    """
    for name, limit in {"seconds": seconds, "max_bytes": max_bytes, "max_characters": max_characters}.items():
        if limit <= 0:
            raise SettingsError(f"{name} of the web tools is {limit}; it must be more than 0.")
    allowed = gate(hosts, networks, resolve)
    reader = Reader(allowed, seconds, max_bytes)
    roots = tuple(start) if start is not None else tuple(f"https://{each}/" for each in hosts if "*" not in each)
    tools = [_fetch(reader, max_characters)]
    if roots and max_pages > 0:
        tools.append(_search(reader, roots, max_pages))
    return tools


def _fetch(reader: Reader, max_characters: int) -> BaseTool:
    @mark(idempotent=True)
    @tool
    async def fetch(url: str, start: int = 0) -> str:
        """Read a web page as text.

        Args:
            url: The page, for example https://docs.python.org/3/
            start: The character to begin with, where a long page was cut
        """
        found, page = await reader.page(url)
        piece = page.text[max(start, 0) : max(start, 0) + max_characters]
        left = len(page.text) - max(start, 0) - len(piece)
        more = f"\n... ({left} more characters; start={len(page.text) - left} reads on)" if left > 0 else ""
        return f"{page.title}\n{found}\n\n{piece}{more}".lstrip()

    return fetch


def _search(reader: Reader, roots: Sequence[str], max_pages: int) -> BaseTool:
    @mark(idempotent=True)
    @tool
    async def search_web(query: str) -> str:
        """Search the web pages that may be read for passages about something.

        Args:
            query: A few words
        """
        words = ranking.words(query)
        if not words:
            raise ValueError(f"query = {query!r} has no words")
        pages, failed = await _crawl(reader, roots, words, max_pages)
        if not pages:
            raise ToolException("no page could be read: " + "; ".join(failed[:3]))
        found = ranking.best_passages(pages, words, _RESULTS)
        return "\n\n".join(f"{title}\n{url}\n{passage}" for url, title, passage in found) or "Nothing was found."

    return search_web


async def _crawl(
    reader: Reader, roots: Sequence[str], words: frozenset[str], max_pages: int
) -> tuple[dict[str, Page], list[str]]:
    """Pages from the roots on, those first that links with the query's words lead to; and why others were not read."""
    waiting = {url: len(words) + 1.0 for url in roots}  # url -> how promising it looks
    seen, pages, failed = set(roots), {}, []
    try:
        async with asyncio.timeout(2 * reader.seconds):
            while waiting and len(seen) - len(waiting) < max_pages:
                room = min(_PAGES_AT_ONCE, max_pages - (len(seen) - len(waiting)))
                chosen = sorted(waiting, key=lambda url: -waiting[url])[:room]
                for url in chosen:
                    del waiting[url]
                for outcome in await asyncio.gather(*map(reader.page, chosen), return_exceptions=True):
                    if isinstance(outcome, ToolException | ConnectionError):
                        failed.append(str(outcome))
                        continue
                    if isinstance(outcome, BaseException):
                        raise outcome
                    url, page = outcome
                    pages[url] = page
                    for link, said in page.links:
                        if link not in seen and _readable(reader.gate, link):
                            seen.add(link)
                            waiting[link] = len(words & ranking.words(f"{said} {link}"))
    except TimeoutError:
        failed.append(f"the search took longer than {2 * reader.seconds:g} s")
    return pages, failed


def _readable(gate: Gate, url: str) -> bool:
    try:
        gate.target(url)
    except ToolException:
        return False
    return True


async def _read(url: str, reply: Reply) -> Page:
    kind = reply.headers.get("content-type", "text/html").lower()
    if reply.status >= HTTPStatus.BAD_REQUEST:
        raise ToolException(f"url = {url!r}: the server answered {reply.status}{_phrase(reply.status)}")
    if reply.headers.get("content-encoding", "identity") != "identity":
        raise ToolException(f"url = {url!r} came compressed, though that was not asked for; it is not read")
    if not _TEXTUAL.match(kind) and "html" not in kind:
        raise ToolException(f"url = {url!r} is {kind.partition(';')[0]}, not text")
    named = _CHARSET.search(kind) or _CHARSET.search(reply.body[:1024].decode("latin-1"))
    try:
        text = reply.body.decode(named[1] if named else "utf-8", errors="replace")
    except LookupError:
        text = reply.body.decode(errors="replace")
    page = await asyncio.to_thread(read_html, text, url) if "html" in kind else Page("", text, ())
    if reply.whole:
        return page
    return Page(page.title, f"{page.text}\n... (the page is longer; the rest was not read)", page.links)


def _phrase(status: int) -> str:
    return f" {HTTPStatus(status).phrase}" if status in HTTPStatus._value2member_map_ else ""
