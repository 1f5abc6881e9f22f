"""Units are exact, dates are calendar dates, and what is neither is named."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plural.agents import toolbox
from plural.errors import SettingsError


def converted(amount: float, begin: str, end: str) -> str:
    return str(toolbox.convert_units.invoke({"amount": amount, "from_unit": begin, "to_unit": end}))


@pytest.mark.parametrize(
    ("amount", "begin", "end", "value"),
    [
        (1, "inch", "cm", "2.54 cm"),
        (0.1, "mile", "m", "160.9344 m"),
        (100, "C", "F", "212 F"),
        (-40, "degF", "°C", "-40 °C"),
        (1, "C", "coulomb", "1 coulomb"),
        (90, "km/h", "m/s", "25 m/s"),
        (1, "GiB", "MiB", "1024 MiB"),
        (1, "hectare", "m^2", "10000 m^2"),
        (1, "ft²", "m**2", "0.09290304 m**2"),
        (1, "hour", "1/Hz", "3600 1/Hz"),
        (1, "acre", "m²", "4046.87260987 m²"),
    ],
)
def test_conversions_are_exact(amount: float, begin: str, end: str, value: str) -> None:
    assert converted(amount, begin, end) == value


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [
        ("kg", "m", r"kg \[mass\] cannot be converted to m \[length\]"),
        ("blorb", "m", "from_unit = 'blorb' is not a unit that is known"),
        ("m", "m**9**9**9", "to_unit = 'm\\*\\*9\\*\\*9\\*\\*9' is not a unit such as"),
        ("m", "__import__('os')", "to_unit = .* is not a unit such as"),
        ("m*" * 40 + "m", "m", "from_unit = .* is not a unit such as"),
        ("", "m", "from_unit = '' is not a unit such as"),
    ],
)
def test_what_is_no_unit_is_named(begin: str, end: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        converted(1, begin, end)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from plural.agents.toolbox import units

    units._pint.cache_clear()
    monkeypatch.setitem(sys.modules, "pint", None)
    with pytest.raises(SettingsError, match=r"convert_units needs the package 'pint'. .*plural\[tools\]"):
        converted(1, "m", "km")


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        ({"start": "2024-01-31", "months": 1}, "Thursday 2024-02-29"),
        ({"start": "2024-02-29", "years": 1}, "Friday 2025-02-28"),
        ({"start": "2024-01-31", "months": -2}, "Thursday 2023-11-30"),
        ({"start": "2026-11-27", "weeks": 2, "days": -1}, "Thursday 2026-12-10"),
        ({"start": "2024-01-31T08:00", "hours": 20, "minutes": 5}, "Thursday 2024-02-01 04:05"),
        ({"start": "2026-11-27", "hours": 30}, "Saturday 2026-11-28 06:00"),
        ({"start": "2026-11-27"}, "Friday 2026-11-27"),
    ],
)
def test_dates_are_shifted(asked: dict[str, object], value: str) -> None:
    assert toolbox.shift_date.invoke(asked) == value


@given(start=st.dates(date(1000, 1, 1), date(5000, 1, 1)), days=st.integers(-100_000, 100_000))
def test_shifting_by_days_is_undone_by_days_between(start: date, days: int) -> None:
    moved = toolbox.shift_date.invoke({"start": start.isoformat(), "days": days}).split()[1]
    assert toolbox.days_between.invoke({"start": start.isoformat(), "end": moved}) == days
    assert date.fromisoformat(moved) == start + timedelta(days=days)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"start": "9999-12-31", "days": 1}, "'9999-12-31' that leads out of the calendar"),
        ({"start": "2024-01-01", "years": -3000}, "out of the calendar"),
        ({"start": "2024-01-01", "minutes": 10**18}, "out of the calendar"),
        ({"start": "yesterday"}, "start = 'yesterday' is not a date"),
    ],
)
def test_dates_that_are_none(asked: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        toolbox.shift_date.invoke(asked)


def test_clocks_elsewhere() -> None:
    asked = {"when": "2026-07-01T08:00", "from_zone": "Europe/Berlin", "to_zone": "America/New_York"}
    assert toolbox.convert_time.invoke(asked) == "Wednesday 2026-07-01 02:00 EDT"
    there = datetime.strptime(toolbox.now.invoke({}), "%A %Y-%m-%d %H:%M %Z").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - there) < timedelta(minutes=2)


@pytest.mark.parametrize("zone", ["Nowhere/City", "../../etc/passwd", "Europe", "/etc/localtime", ""])
def test_what_is_no_time_zone_is_named(zone: str) -> None:
    with pytest.raises(ValueError, match=r"zone = .* is not a time zone such as"):
        toolbox.now.invoke({"zone": zone})
