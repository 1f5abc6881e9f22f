"""Units of measurement, exactly: an inch is 127/50 centimetres and not a binary float near it."""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

from plural.agents.marks import mark
from plural.agents.toolbox.arithmetic import written
from plural.agents.toolbox.extras import missing
from plural.agents.tools import tool

# Factors such as km, m^2 or °C. What else pint reads, powers of powers among it, is never handed to it.
_FACTOR = r"°?[^\W\d]\w*(?:(?:\*\*|\^)-?[1-9]|[²³])?"
_UNIT = re.compile(rf"(?:1\s*/\s*)?{_FACTOR}(?:\s*[*/·]\s*{_FACTOR}){{0,7}}")
_LONGEST = 60  # characters of a unit
_TEMPERATURES = {"C": "degC", "F": "degF", "K": "kelvin"}  # alone they are coulomb, farad and kelvin


@mark(idempotent=True)
@tool
def convert_units(amount: float, from_unit: str, to_unit: str) -> str:
    """Convert an amount from one unit of measurement to another.

    Args:
        amount: How much of the first unit
        from_unit: The unit that it is in, for example mile, km/h, degF or m^2
        to_unit: The unit that is wanted, for example km
    """
    pint, units = _pint()
    letters = from_unit in _TEMPERATURES and to_unit in _TEMPERATURES
    begin = _unit(_TEMPERATURES[from_unit] if letters else from_unit, "from_unit", pint, units)
    end = _unit(_TEMPERATURES[to_unit] if letters else to_unit, "to_unit", pint, units)
    try:
        found = units.Quantity(Fraction(str(amount)), begin).to(end).magnitude
    except pint.DimensionalityError as error:
        raise ValueError(f"{from_unit} {error.dim1} cannot be converted to {to_unit} {error.dim2}") from error
    near = (
        written(found).removeprefix("about ").partition(" = ")[0]
        if isinstance(found, Fraction)
        else f"{float(found):.12g}"
    )
    return f"{near} {to_unit}"


@functools.cache
def _pint() -> tuple[Any, Any]:
    """The library and its thousand units."""
    try:
        import pint
    except ModuleNotFoundError as error:
        raise missing("pint", "tools", "convert_units") from error
    return pint, pint.UnitRegistry(non_int_type=Fraction)


def _unit(name: str, argument: str, pint: Any, units: Any) -> Any:
    known = len(name) <= _LONGEST and _UNIT.fullmatch(name.strip())
    try:
        if known:
            return units.parse_units(name.strip())
    except (pint.UndefinedUnitError, ValueError) as error:
        raise ValueError(f"{argument} = {name!r} is not a unit that is known") from error
    raise ValueError(f"{argument} = {name!r} is not a unit such as km, m/s or m^2")
