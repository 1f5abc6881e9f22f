"""The trace on the terminal."""

from __future__ import annotations

import pytest

from plural.cli import _RunView
from plural.types import Event, StepFinished, TextDelta, Usage


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
    view = _RunView()
    for event in spoken:
        view.show(event)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == ["home says turn it on", "cron says 30 7"]
