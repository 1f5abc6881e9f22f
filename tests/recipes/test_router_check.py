"""The check of the router, as it stands, on a tiny base: that all of it runs, and that it counts rightly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plural.types import Decision, Option
from tests.models import tiny

pytest.importorskip("hassil")
pytest.importorskip("cron_descriptor")


def test_all_of_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import router_check

    tiny.save_small(tmp_path / "base")
    for name in ("base", "cache", "library"):
        monkeypatch.setenv(f"PLURAL_{name.upper()}", str(tmp_path / name))
    monkeypatch.setattr(router_check, "out_of_scope", lambda: ["Why is the sky blue?", "Who was it?"])
    sizes = ("--rows", "3", "--asked", "1", "--timed", "3")
    monkeypatch.setattr("sys.argv", ["router_check", "home", "planner", *sizes])
    router_check.main()
    *printed, last = capsys.readouterr().out.splitlines()
    said = json.loads(last)
    kinds = {"in", "out", "home", "planner", "general", "elsewhere"}
    assert said["router"].keys() >= kinds
    assert said["nearest examples"].keys() >= kinds
    for name in ("router", "nearest examples", "the base, asked"):
        assert all(0 <= part <= 1 for part in said[name].values())
    assert said["calibration"].keys() == {"likeliest", "decided"}
    assert all(0 <= error <= 1 for error in said["calibration"].values())
    assert sum(line.startswith("calibration error: ") for line in printed) == 1


def test_what_is_nobodys_is_right_when_it_is_left_to_the_base() -> None:
    import router_check

    said = {
        "on": Decision("home", 0.9, (Option("home", 0.9), Option("base", 0.1))),
        "why": Decision("base", 0.3, (Option("home", 0.6), Option("base", 0.3), Option("cron", 0.1))),  # too far
    }

    class Router:
        def route_vector(self, text: Any) -> Decision[str]:
            return said[text]

    class Network:
        reader = property(lambda self: self)

        async def aembed(self, texts: Any) -> Any:
            return texts

    several = [router_check.Prompts("home", "home", ["on"]), router_check.Prompts("base", "general", ["why"])]
    apart = [router_check.Prompts("home", "other", ["nothing"], apart=True)]
    found = router_check.calibrated(Router(), Network(), [*several, *apart])
    assert found == {"likeliest": pytest.approx((0.1 + 0.6) / 2), "decided": pytest.approx((0.1 + 0.7) / 2)}
