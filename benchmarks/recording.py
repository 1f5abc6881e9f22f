"""Records a real run of a command as an animated picture: `make recording` writes docs/images/ask.svg.

    python benchmarks/recording.py OUT.svg COMMAND...

Each line appears when the command wrote it, at its own speed; waits of more than a second are cut short.
"""

from __future__ import annotations

import html
import os
import pty
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS, WIDTH, HEIGHT, MARGIN = 100, 8.4, 18, 16
NBSP = "\u00a0"  # spaces that no viewer drops
LONGEST = 1.0  # seconds without a new line


def main(out: str, *command: str) -> None:
    times: list[tuple[float, bytes]] = []
    environment = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "50", "FORCE_COLOR": "1"}
    os.environ.update(environment)

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 4096)
        times.append((time.monotonic(), data))
        return data

    started = time.monotonic()
    status = pty.spawn(command, read)
    if status:
        raise SystemExit(f"{shlex.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    shown = [(0.0, Text(f"$ {shlex.join(('plural', *command[1:]))}", style="bold"))]
    at, before = 0.5, started
    for when, line in _lines(times):
        at += min(when - before, LONGEST)
        before = when
        shown.append((at, line))
    Path(out).write_text(_picture(shown))


def _lines(times: list[tuple[float, bytes]]) -> Iterator[tuple[float, Text]]:
    """Each line as it stood at its end, and when that was. What was written over with a carriage return is gone."""
    left = b""
    for when, data in times:
        *whole, left = (left + data).split(b"\n")
        for line in whole:
            text = Text.from_ansi(line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace"))
            if text.plain.strip():
                yield when, text


def _picture(shown: list[tuple[float, Text]]) -> str:
    console = Console(width=COLUMNS, color_system="truecolor", force_terminal=True)
    rows: list[tuple[float, str]] = []
    for at, text in shown:
        rows += [(at, _spans(console, row)) for row in text.wrap(console, COLUMNS)]
    width, height = round(COLUMNS * WIDTH + 2 * MARGIN), HEIGHT * len(rows) + 2 * MARGIN
    body = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + HEIGHT * (index + 0.75):.0f}" opacity="0">{spans}'
        f'<animate attributeName="opacity" to="1" dur="0.01s" begin="{at:.2f}s" fill="freeze"/></text>'
        for index, (at, spans) in enumerate(rows)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="monospace" font-size="14" fill="#d9d9d9" xml:space="preserve">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#17181c"/>\n{body}\n</svg>\n'
    )


def _spans(console: Console, row: Text) -> str:
    made = ""
    column = 0
    for segment in row.render(console):
        style, text = segment.style, segment.text
        if not text.strip("\n"):
            continue
        said, shown = "", html.escape(text).replace(" ", NBSP)
        if style is not None and style.color is not None:
            said += f' fill="{style.color.get_truecolor(MONOKAI).hex}"'
        if style is not None and style.bold:
            said += ' font-weight="bold"'
        if style is not None and style.dim:
            said += ' opacity="0.6"'
        # Where each piece begins is said, since fonts differ in how wide they are.
        made += f'<tspan x="{MARGIN + column * WIDTH:.1f}"{said}>{shown}</tspan>'
        column += len(text)
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
