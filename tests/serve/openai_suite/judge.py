"""A plugin of the pytest that runs openai-python's tests: which of them must come to a refusal, and which are left out.

Stands alone, in that suite's own environment. verdicts.toml says why.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Generator
from pathlib import Path

import openai
import pytest

_VERDICTS = tomllib.loads(Path(__file__).with_name("verdicts.toml").read_text())
_USED: set[str] = set()
_REFUSED: list[str] = []


def _verdict(item: pytest.Item, kind: str) -> str | None:
    """Of "chat/test_completions.py::test_method_list[strict]"; its class says no more than the name of its client."""
    file, _, test = item.nodeid.removeprefix("tests/api_resources/").partition("::")
    name = f"{file}::{test.partition('::')[2]}"
    for pattern, said in _VERDICTS[kind].items():
        if re.match(pattern, name):
            _USED.add(pattern)
            return str(said)
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("skip") and not _verdict(item, "left_out_by_the_suite"):
            raise pytest.UsageError(f"verdicts.toml does not name {item.nodeid}, which the suite leaves out.")
        if reason := _verdict(item, "left_out"):
            item.add_marker(pytest.mark.skip(reason=reason))
        _verdict(item, "refused")
    unused = sorted({*_VERDICTS["left_out"], *_VERDICTS["refused"], *_VERDICTS["left_out_by_the_suite"]} - _USED)
    if unused:
        raise pytest.UsageError(f"verdicts.toml names tests that are not there: {', '.join(unused)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    field = _verdict(item, "refused")
    if field is None:
        return (yield)
    try:
        yield
    except openai.BadRequestError as error:
        if field not in error.message:
            pytest.fail(f"it was refused, but not for {field}: {error.message}")
        _REFUSED.append(item.nodeid)
        return None
    pytest.fail(f"{field} was not refused")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"{len(_REFUSED)} of those that passed came to the refusal that they must come to")
