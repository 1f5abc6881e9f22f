"""Dates, times and schedules."""

from __future__ import annotations

import calendar
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from plural.agents.marks import mark
from plural.agents.tools import tool


@mark(idempotent=True)
@tool
def next_run(cron: str, after: str | None = None) -> str:
    """Tell when a cron schedule runs next.

    Args:
        cron: Five cron fields: minute hour day month weekday, for example 30 7 * * 1-5
        after: Look after this date and time, for example 2026-01-31T08:00; now if left out
    """
    from croniter import croniter  # when it is called: a start need not wait for it

    fields = cron.split()
    if len(fields) != 5 or not croniter.is_valid(cron):
        raise ValueError(f"{cron!r} is not a cron schedule of five fields")
    start = datetime.fromisoformat(after) if after else datetime.now().astimezone()
    found: datetime = croniter(cron, start).get_next(datetime)
    return f"{found:%A %Y-%m-%d %H:%M}"


@mark(idempotent=True)
@tool
def days_between(start: str, end: str) -> int:
    """Count the days from one date to another.

    Args:
        start: The first date, for example 2026-01-31
        end: The second date, for example 2026-03-01; an earlier one gives a negative number
    """
    return (date.fromisoformat(end) - date.fromisoformat(start)).days


@mark(idempotent=True)
@tool
def shift_date(
    start: str, years: int = 0, months: int = 0, weeks: int = 0, days: int = 0, hours: int = 0, minutes: int = 0
) -> str:
    """Tell the date and weekday that lie some time after another date.

    Args:
        start: A date or a date and time, for example 2026-01-31 or 2026-01-31T08:00
        years: Years to add; a negative number goes back
        months: Months to add; from the 31st, a shorter month's last day is meant
        weeks: Weeks to add
        days: Days to add
        hours: Hours to add
        minutes: Minutes to add
    """
    begin = _moment(start, "start")
    try:
        month = begin.year * 12 + begin.month - 1 + 12 * years + months
        last = calendar.monthrange(month // 12, month % 12 + 1)[1]
        moved = begin.replace(year=month // 12, month=month % 12 + 1, day=min(begin.day, last))
        moved += timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes)
    except (ValueError, OverflowError, IndexError) as error:
        raise ValueError(f"from {start!r} that leads out of the calendar, which has the years 1 to 9999") from error
    timed = "T" in start or ":" in start or hours or minutes
    return f"{moved:%A} {moved.isoformat(' ', 'minutes') if timed else moved.date().isoformat()}"


@mark(idempotent=True)
@tool
def now(zone: str = "UTC") -> str:
    """Tell the present date, weekday and time.

    Args:
        zone: A time zone, for example Europe/Berlin
    """
    return f"{datetime.now(_zone(zone, 'zone')):%A %Y-%m-%d %H:%M %Z}"


@mark(idempotent=True)
@tool
def convert_time(when: str, from_zone: str, to_zone: str) -> str:
    """Tell what a clock in another time zone shows at a given time.

    Args:
        when: A date and time, for example 2026-01-31T08:00
        from_zone: The time zone in which that is the time, for example Europe/Berlin
        to_zone: The other time zone, for example America/New_York
    """
    there = _moment(when, "when").replace(tzinfo=_zone(from_zone, "from_zone"))
    return f"{there.astimezone(_zone(to_zone, 'to_zone')):%A %Y-%m-%d %H:%M %Z}"


def _moment(text: str, argument: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{argument} = {text!r} is not a date such as 2026-01-31 or 2026-01-31T08:00") from error


def _zone(name: str, argument: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a folder of zones
        raise ValueError(f"{argument} = {name!r} is not a time zone such as Europe/Berlin or UTC") from error
