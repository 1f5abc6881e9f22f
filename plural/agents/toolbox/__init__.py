"""The real tools that come with Plural. Their docstrings are what the model reads: short and exact.

`TOOLS` are those that need no settings, by the names that a specialist's card may use. The others are made for what
they may touch: `files(root)`, `database(path)`, `web(hosts)`, `mcp_tools(command=... or url=...)`, or with limits of
their own: `sandbox(seconds=..., memory=...)`. Libraries that not everybody needs are loaded when a tool is first used;
where one is missing, the error names the extra that brings it.
"""

from __future__ import annotations

from plural.agents.toolbox.calculator import calculate, evaluate
from plural.agents.toolbox.clock import convert_time, days_between, next_run, now, shift_date
from plural.agents.toolbox.database import database
from plural.agents.toolbox.files import files
from plural.agents.toolbox.mcp import mcp_tools
from plural.agents.toolbox.person import ask_person
from plural.agents.toolbox.python import run_python, sandbox
from plural.agents.toolbox.units import convert_units
from plural.agents.toolbox.web import web

TOOLS = {
    each.name: each
    for each in (
        calculate,
        evaluate,
        next_run,
        days_between,
        shift_date,
        now,
        convert_time,
        convert_units,
        run_python,
        ask_person,
    )
}

__all__ = [
    "TOOLS",
    "ask_person",
    "calculate",
    "convert_time",
    "convert_units",
    "database",
    "days_between",
    "evaluate",
    "files",
    "mcp_tools",
    "next_run",
    "now",
    "run_python",
    "sandbox",
    "shift_date",
    "web",
]
