"""The command line: which commands there are, and how a program ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from plural.doors import (
    asking,
    deploying,
    drafting,
    machine,
    mcp,
    memory,
    routing,
    runs,
    school,
    serving,
    shelf,
    training,
)
from plural.doors.terminal import complain, err
from plural.errors import PluralError, UserError

COMMANDS: dict[str, Callable[..., None]] = {
    "ask": asking.ask,
    "chat": asking.chat,
    "draft": drafting.draft,
    "run": drafting.run,
    "runs": runs.runs,
    "show-run": runs.show_run,
    "resume": runs.resume,
    "replay": runs.replay,
    "fork": runs.fork,
    "correct": routing.correct,
    "learn": routing.learn,
    "list": shelf.list_,
    "show": shelf.show,
    "train": training.train,
    "school": school.school,
    "improve": training.improve,
    "eval": shelf.eval_,
    "publish": shelf.publish,
    "rollback": shelf.rollback,
    "mcp": mcp.mcp,
    "serve": serving.serve,
    "deploy": deploying.deploy,
    "doctor": machine.doctor,
}


class _StoppedError(Exception):
    """Ctrl-C, with what is to be said about it. Typer would end a program that stands in a `main` with 0."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise _StoppedError(str(stopped) or "Stopped.") from stopped


app = typer.Typer(
    name="plural",
    cls=_Commands,
    help="One small base model, many specialists, one answer. Everything runs on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _command in COMMANDS.items():
    app.command(name=_name)(_command)
app.add_typer(memory.app, name="memory")
app.add_typer(serving.keys_app, name="keys")


def main() -> None:
    """Exits with 0 when done, 1 for a fault of the machine or the model, 2 for something to change, 130 for Ctrl-C."""
    # Imports make a million objects that all stay: to look for garbage among them every 700 takes a tenth of a start.
    gc.set_threshold(100_000, 20, 100)
    try:
        app(standalone_mode=False)
    except _StoppedError as stopped:
        err.print(str(stopped))
        sys.exit(130)
    except PluralError as error:
        complain(error)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except typer.Abort:
        sys.exit(130)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except Exception as error:  # click's usage errors print themselves; all else is shown whole
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
