"""The trace on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from plural import cli
from plural.cli import _RunView
from plural.types import Decision, Event, Option, Routed, StepFinished, TextDelta, Usage


def shown(events: list[Event], capsys: pytest.CaptureFixture[str]) -> list[str]:
    view = _RunView()
    for event in events:
        view.show(event)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_steps_that_speak_at_once_each_keep_their_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    spoken: list[Event] = [
        TextDelta(1, "home", "turn "),
        TextDelta(2, "cron", "30 "),
        TextDelta(1, "home", "it "),
        TextDelta(2, "cron", "7"),
        StepFinished(2, "cron", "30 7", Usage(), 0.1),
        TextDelta(1, "home", "on"),
        StepFinished(1, "home", "turn it on", Usage(), 0.1),
    ]
    assert shown(spoken, capsys) == ["home says turn it on", "cron says 30 7"]


def test_what_was_held_is_shown_when_another_event_has_closed_the_open_line(capsys: pytest.CaptureFixture[str]) -> None:
    happened: list[Event] = [
        TextDelta(1, "home", "on"),
        TextDelta(2, "cron", "30 7"),
        StepFinished(2, "cron", "30 7", Usage(), 0.1),
        Routed("more", Decision("base", 1.0, (Option("base", 1.0),)), 3),
        StepFinished(1, "home", "on", Usage(), 0.1),
    ]
    assert shown(happened, capsys) == ["home says on", "route 3 base 1.00", "cron says 30 7"]


def test_work_that_begins_after_the_network_is_open_has_a_progress_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(cli, "err", Console(file=screen, force_terminal=True))
    with cli._bars() as report:
        report("preparing the base", 0.5)
        report("", 1.0)
        before = len(screen.getvalue())
        report("reading examples", 0.5)
    assert "reading examples" in screen.getvalue()[before:]
    assert "preparing the base" not in screen.getvalue()[before:]
