"""The trace on the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from plural.doors import terminal
from plural.doors.asking import RunView
from plural.types import (
    Decision,
    Event,
    Option,
    Routed,
    RunFinished,
    StepFinished,
    TextDelta,
    ToolCall,
    ToolCalled,
    Usage,
)


def shown(events: list[Event], capsys: pytest.CaptureFixture[str]) -> list[str]:
    view = RunView()
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


def test_a_line_is_whole_whatever_happens_in_other_steps(capsys: pytest.CaptureFixture[str]) -> None:
    happened: list[Event] = [
        TextDelta(1, "home", "turn it "),
        Routed("more", Decision("base", 1.0, (Option("base", 1.0),)), 3),
        TextDelta(2, "cron", "30 7"),
        StepFinished(2, "cron", "30 7", Usage(), 0.1),
        TextDelta(1, "home", "on"),
        ToolCalled(1, "home", ToolCall("1", "look", {})),
        TextDelta(2, "cron", "!"),
        StepFinished(1, "home", "on", Usage(), 0.1),
    ]
    expected = ["home says turn it on", "route 3 base 1.00", "cron says 30 7", "home calls look()", "cron says !"]
    assert shown(happened, capsys) == expected


def test_a_run_that_ends_in_the_middle_of_a_line_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    happened: list[Event] = [TextDelta(1, "home", "on"), TextDelta(2, "cron", "30"), RunFinished("on", Usage(), 0.1)]
    lines = shown(happened, capsys)
    assert lines[:2] == ["home says on", "cron says 30"]
    assert "answer" in lines[2]


def test_work_that_begins_after_the_network_is_open_has_a_progress_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=screen, force_terminal=True))
    with terminal.bars() as report:
        report("preparing the base", 0.5)
        report("", 1.0)
        before = len(screen.getvalue())
        report("reading examples", 0.5)
    assert "reading examples" in screen.getvalue()[before:]
    assert "preparing the base" not in screen.getvalue()[before:]
