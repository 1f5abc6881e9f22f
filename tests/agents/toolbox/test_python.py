"""A program in the sandbox computes, and can do nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from langchain_core.tools import ToolException

from plural.agents import toolbox
from plural.errors import SettingsError

from .calls import call


def ran(code: str) -> str:
    return str(toolbox.run_python.invoke({"code": code}))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("sum(range(10))", "45"),
        ("print('a')\nprint('b')", "a\nb\n"),
        ("print('a')\n[1, {'b': 2}]", "a\n[1, {'b': 2}]"),
        ("x = 1", "The program ended. It printed nothing, and its last line has no value."),
        ("import math, re, json\njson.dumps([math.floor(2.5), re.sub('a', 'b', 'aa')])", "'[2, \"bb\"]'"),
        ("def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(15)", "610"),
        ("10 ** 5000", "a int too large to write"),
    ],
)
def test_a_program_tells_what_it_prints_and_its_last_value(code: str, told: str) -> None:
    assert ran(code) == told


async def test_an_error_comes_with_its_line_and_what_was_printed() -> None:
    told, failed = await call([toolbox.run_python], "run_python", code="print('so far')\n1 / 0")
    assert failed
    assert "so far" in told
    assert "line 2" in told
    assert "ZeroDivisionError: division by zero" in told


ESCAPES = {
    "open": "open('{secret}').read()",
    "pathlib": "from pathlib import Path\nPath('{secret}').read_text()",
    "write": "open('{secret}', 'w').write('gone')",
    "os.system": "import os\nos.system('cat {secret}')",
    "os.open": "import os\nos.read(os.open('{secret}', 0), 99)",
    "listdir": "import os\nos.listdir('/')",
    "environ": "import os\nos.environ['PLURAL_TEST_SECRET']",
    "getenv": "import os\nos.getenv('PLURAL_TEST_SECRET')",
    "subprocess": "import subprocess\nsubprocess.run(['cat', '{secret}'])",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', 80))",
    "urllib": "import urllib.request\nurllib.request.urlopen('file://{secret}').read()",
    "ctypes": "import ctypes\nctypes.CDLL(None).system(b'id')",
    "dunder import": "__import__('os').system('id')",
    "importlib": "import importlib\nimportlib.import_module('os').system('id')",
    "subclasses": "().__class__.__bases__[0].__subclasses__()",
    "globals": "(lambda: 0).__globals__['__builtins__']['open']('{secret}')",
    "builtins": "import builtins\nbuiltins.open('{secret}').read()",
    "getattr": "getattr(getattr([], '__class__'), '__mro__')",
    "traceback": "try:\n    1 / 0\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_back.f_globals",
    "generator": "g = (i for i in [1])\ng.gi_frame.f_back.f_builtins",
    "format": "'{{0.__class__.__init__.__globals__}}'.format([])",
    "exec": "exec('import os; os.system(\"id\")')",
    "compile": "eval(compile('open(\"{secret}\").read()', 'x', 'eval'))",
    "sys.modules": "import sys\nsys.modules['os'].system('id')",
    "pickle": "import pickle\npickle.loads(b'cos\\nsystem\\n(S\"id\"\\ntR.')",
}


@pytest.mark.parametrize("way", ESCAPES)
def test_there_is_no_way_out(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    monkeypatch.setenv("PLURAL_TEST_SECRET", "the secret")
    with pytest.raises(ToolException) as refused:
        ran(ESCAPES[way].replace("{secret}", str(secret)).replace("{{", "{").replace("}}", "}"))
    assert "the secret" not in str(refused.value)
    assert secret.read_text() == "the secret"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("'a' * 10 ** 10", "MemoryError"),
        ("10 ** 10 ** 9", "MemoryError"),
        ("x = [1]\nwhile True:\n    x = x + x", "MemoryError"),
        ("import math\nmath.factorial(10 ** 7)", "MemoryError"),
        ("def f():\n    return f()\nf()", "RecursionError"),
        ("while True:\n    print('x' * 1000)", "MemoryError|TimeoutError"),
        ("while True:\n    pass", "TimeoutError"),
    ],
)
def test_time_and_memory_are_bounded(code: str, says: str) -> None:
    seconds = 0.1 if "TimeoutError" in says else 60  # what breaks the other limits breaks them soon
    with pytest.raises(ToolException, match=says):
        toolbox.sandbox(seconds=seconds, memory=2**22).invoke({"code": code})


def test_sleeping_takes_no_time_and_nothing_is_kept() -> None:
    assert ran("import time\ntime.sleep(10 ** 6)\nkept = 1\nkept") == "1"
    with pytest.raises(ToolException, match="'kept' is not defined"):
        ran("kept")


def test_the_process_has_no_children_left() -> None:
    ran("1")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_program_has_a_longest_length() -> None:
    with pytest.raises(ValueError, match="code has 20001 characters; at most 20000"):
        ran("#" * 20_001)


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"memory": -1}])
def test_limits_must_be_limits(limits: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="of run_python must be more than 0"):
        toolbox.sandbox(**limits)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(SettingsError, match=r"run_python needs the package 'pydantic-monty'. .*plural\[tools\]"):
        ran("1")
