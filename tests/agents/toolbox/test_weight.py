"""The toolbox is light until a tool is used."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_toolbox_loads_no_tools_library() -> None:
    heavy = ("sympy", "pint", "pydantic_monty", "mcp", "starlette", "uvicorn", "torch", "plural.agents.toolbox.get")
    code = f"import sys; from plural.agents import toolbox; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
