"""What a person would read of an HTML page, in time that grows with its length and no faster.

It is a scanner and not a parser: nothing is looked for twice, so no page, however malformed, takes quadratic time, as
pages made for that do in the standard library's parser before Python 3.13.6.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from urllib.parse import urljoin

_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "textarea", "select", "title"})
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "footer", "form", "h1", "h2"}
    | {"h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "tr", "ul"}
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]{0,40})")
_HREF = re.compile(r"""\bhref\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""", re.IGNORECASE)
_MOST_ATTRIBUTES = 4000  # characters of one tag that are looked into


@dataclass(frozen=True, slots=True)
class Page:
    """`links` are (absolute URL, what the link says), in order; `text` has one block a line."""

    title: str
    text: str
    links: tuple[tuple[str, str], ...]


def read_html(source: str, url: str) -> Page:
    """`url` is where the page was found; its links are relative to it."""
    pieces: list[str] = []
    links: list[tuple[str, int]] = []  # the target, and how many pieces there were before what the link says
    said: list[tuple[str, str]] = []
    title, at = "", 0
    while (opened := source.find("<", at)) >= 0:
        pieces.append(source[at:opened])
        if source.startswith("<!--", opened):
            at = _after(source, "-->", opened)
            continue
        tag = _TAG.match(source, opened)
        if tag is None:
            at = opened + 1 if source[opened + 1 : opened + 2] not in ("!", "?", "/") else _after(source, ">", opened)
            pieces.append("<" if at == opened + 1 else "")
            continue
        closing, name = tag[1] == "/", tag[2].lower()
        at = _after(source, ">", opened)
        if name in _SKIPPED and not closing:
            inside, at = at, _closed(source, name, at)
            if name == "title" and not title:
                title = source[inside:at].partition("<")[0]
        elif name == "a":
            if links:
                target, begin = links.pop()
                said.append((target, _line("".join(pieces[begin:]))))
            href = None if closing else _HREF.search(source, tag.end(), min(at, tag.end() + _MOST_ATTRIBUTES))
            if href:
                links.append((html.unescape(href[1].strip("\"'")), len(pieces)))
        elif name in _BLOCKS:
            pieces.append("\n- " if name == "li" and not closing else "\n")
        elif name in ("td", "th"):
            pieces.append(" ")
    pieces.append(source[at:])
    lines = (_line(line) for line in html.unescape("".join(pieces)).split("\n"))
    text = "\n".join(line for line in lines if line.strip("- "))
    return Page(_line(html.unescape(title)), text, tuple(_absolute(url, target, words) for target, words in said))


def _after(source: str, what: str, begin: int) -> int:
    """Where the rest begins after `what`; the end when it does not come, so that nobody looks for it again."""
    found = source.find(what, begin)
    return len(source) if found < 0 else found + len(what)


def _closed(source: str, name: str, begin: int) -> int:
    """Where the element's closing tag begins."""
    found = re.compile(f"</{name}", re.IGNORECASE).search(source, begin)
    return found.start() if found else len(source)


def _line(text: str) -> str:
    return " ".join(text.split())


def _absolute(url: str, target: str, words: str) -> tuple[str, str]:
    try:
        return urljoin(url, target).partition("#")[0], html.unescape(words)
    except ValueError:  # such as http://[
        return "", ""
