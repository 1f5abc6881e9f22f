"""Python in a sandbox: Monty, an interpreter of its own in a process of its own, without CPython in it.

The program has no files, network, environment or processes, because the interpreter has no way to them but the host's
answers, and this host answers nothing. Time and memory are bounded in the interpreter; a worker that does not keep to
them is killed. Nothing outlives a call.
"""

from __future__ import annotations

from typing import Any

from langchain_core.tools import BaseTool, ToolException

from plural.agents.marks import mark
from plural.agents.toolbox.extras import missing
from plural.agents.tools import tool
from plural.errors import SettingsError

_LONGEST = 20_000  # characters of a program
_PRINTED = 16_384  # bytes that it may print; of its value as many characters are shown
_GRACE = 5.0  # seconds without a word from the worker, beyond its time, after which it is killed


def sandbox(*, seconds: float = 5.0, memory: int = 64 * 2**20) -> BaseTool:
    """The tool `run_python`.

    Args:
        seconds: that a program may compute.
        memory: bytes that its values may hold.

    Raises:
        SettingsError: a limit that is none.
    """
    if seconds <= 0 or memory <= 0:
        raise SettingsError(f"seconds = {seconds:g} and memory = {memory} of run_python must be more than 0.")

    @mark(idempotent=True)
    @tool
    def run_python(code: str) -> str:
        """Run a Python program in a sandbox and tell what it prints and the value of its last line.

        It has no files, no network and no packages, only the language and a few modules such as math, re and json.

        Args:
            code: The program, for example print(sum(range(10)))
        """
        if len(code) > _LONGEST:
            raise ValueError(f"code has {len(code)} characters; at most {_LONGEST} are run")
        return _run(code, seconds, memory)

    return run_python


run_python = sandbox()


def _run(code: str, seconds: float, memory: int) -> str:
    monty = _monty()
    printed = monty.CollectString(max_bytes=_PRINTED)
    limits = {"max_feed_duration_secs": seconds, "max_memory": memory, "max_suspensions": 1}
    pool = monty.Monty(request_timeout=seconds + _GRACE, max_processes=1)
    try:
        with pool, pool.checkout(limits=limits, os_policy={"sleep": "zero"}) as session:
            value = session.feed_run(code, print_callback=printed)
    except monty.MontyCrashedError as error:
        raise ToolException("the program broke the sandbox's limits and was stopped") from error
    except (monty.MontySyntaxError, monty.MontyRuntimeError) as error:
        raise ToolException("\n".join(filter(None, (printed.output, error.display())))) from error
    return _told(printed.output, value)


def _told(printed: str, value: Any) -> str:
    if value is None:
        return printed or "The program ended. It printed nothing, and its last line has no value."
    shown = _shown(value)
    if len(shown) > _PRINTED:
        shown = f"{shown[:_PRINTED]} ... ({len(shown) - _PRINTED} more characters)"
    return f"{printed}{shown}"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a {type(value).__name__} too large to write"


def _monty() -> Any:
    try:
        import pydantic_monty
    except ModuleNotFoundError as error:
        raise missing("pydantic-monty", "tools", "run_python") from error
    return pydantic_monty
