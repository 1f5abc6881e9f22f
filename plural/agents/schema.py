"""Checks a JSON value against a JSON Schema: the keywords that constrain an answer, and no others.

A keyword that is not known here is refused when the contract is made, so no part of a schema is ever ignored.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from plural.errors import GrammarError

_NOTES = frozenset({"title", "description", "default", "examples", "format", "$schema", "$id", "$defs", "definitions"})
_CHECKS = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
    | {"properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"}
    | {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}
_LIMITS: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
    ("minimum", "less than", operator.lt),
    ("maximum", "more than", operator.gt),
    ("exclusiveMinimum", "not more than", operator.le),
    ("exclusiveMaximum", "not less than", operator.ge),
)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises GrammarError for a keyword, type or reference that `violations` does not know."""
    for part in _parts(schema):
        unknown = sorted(set(part) - _NOTES - _CHECKS)
        if unknown:
            raise GrammarError(f"The JSON Schema keyword {unknown[0]!r} is not supported in an output contract.")
        wrong = [name for name in _type_names(part) if name not in _TYPES]
        if wrong:
            raise GrammarError(f"{wrong[0]!r} is no JSON type.", hint=f"Types: {', '.join(_TYPES)}.")
        if "$ref" in part:
            _resolve(part["$ref"], schema)


def violations(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What is wrong with `value`, each with the place where it is; empty when it fits."""
    return list(_violations(value, schema, schema, "the answer"))


def finite_values(schema: Any, most: int = 64) -> tuple[Any, ...] | None:
    """Every value that the schema allows, when they are at most `most` and follow from its form; otherwise None.

    An object's values are those of its properties, all of which must be required: what it does not name is left out.
    """
    found = _values(schema, schema, most, ())
    if found is None or not found or len(found) > most:
        return None
    return tuple(value for i, value in enumerate(found) if not any(_same(value, other) for other in found[:i]))


def longest(schema: Any) -> int | None:
    """How many bytes, and so tokens, a value has as JSON at most; None if that does not follow from its form."""
    match schema:
        case {"anyOf": forms}:
            return _whole([longest(form) for form in forms], max)
        case {"enum": values}:
            return max(len(json.dumps(value)) for value in values)
        case {"type": "boolean"}:
            return len("false")
        case {"type": "string", "maxLength": int(letters)}:
            return 6 * letters + 2  # an escaped letter has six
        case {"type": "object", "properties": below}:
            parts = [longest(part) for part in below.values()]
            return _whole([2, *parts, *(len(json.dumps(name)) + 4 for name in below)], sum)
        case {"type": "array", "prefixItems": items, "items": False}:
            return _whole([2, *(longest(item) for item in items), 2 * len(items)], sum)
        case {"type": "array", "maxItems": int(most)}:
            item = longest(schema.get("items")) if most else 0
            return None if item is None else 2 + most * (item + 2)
    return None


def _whole(parts: Sequence[int | None], how: Callable[[Iterable[int]], int]) -> int | None:
    return None if None in parts else how(part for part in parts if part is not None)


def _values(schema: Any, root: Mapping[str, Any], most: int, within: tuple[str, ...]) -> list[Any] | None:
    """`within` are the references that led here: a schema that contains itself has no last value."""
    if not isinstance(schema, Mapping):
        return None
    match {key: value for key, value in schema.items() if key not in _NOTES}:
        case {"enum": values, **rest} if set(rest) <= {"type"}:
            return list(values)
        case {"const": value, **rest} if set(rest) <= {"type"}:
            return [value]
        case {"$ref": reference, **rest} if not rest and reference not in within:
            return _values(_resolve(reference, root), root, most, (*within, reference))
        case {"anyOf": forms, **rest} | {"oneOf": forms, **rest} if not rest:
            lists = [_values(form, root, most, within) for form in forms]
            return None if None in lists else [value for values in lists for value in values or ()]
        case {"type": "boolean", **rest} if not rest:
            return [True, False]
        case {"type": "null", **rest} if not rest:
            return [None]
        case {"type": "integer", "minimum": int(least), "maximum": int(greatest), **rest} if not rest:
            return list(range(least, greatest + 1)) if greatest - least < most else None
        case {"type": "object", "properties": below, **rest}:
            return _objects(below, rest, root, most, within)
    return None


def _objects(
    properties: Mapping[str, Any], rest: Mapping[str, Any], root: Mapping[str, Any], most: int, within: tuple[str, ...]
) -> list[Any] | None:
    if set(rest) - {"required", "additionalProperties"} or rest.get("additionalProperties"):
        return None
    if set(properties) - set(rest.get("required", ())):
        return None
    made: list[Any] = [{}]
    for name, below in properties.items():
        values = _values(below, root, most, within)
        if values is None or len(made) * len(values) > most:
            return None
        made = [{**one, name: value} for one in made for value in values]
    return made


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise GrammarError(f"{schema!r} is not a JSON Schema.")
    yield schema
    for keyword in ("properties", "$defs", "definitions"):
        for below in schema.get(keyword, {}).values():
            yield from _parts(below)
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for below in schema.get(keyword, ()):
            yield from _parts(below)
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from _parts(schema[keyword])


def _violations(value: Any, schema: Any, root: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(schema, bool):
        if not schema:
            yield f"{where} may not be there"
        return
    yield from _of_several(value, schema, root, where)
    names = _type_names(schema)
    if names and not any(_is(value, name) for name in names):
        yield f"{where} = {json.dumps(value)} is not of type {' or '.join(names)}"
        return
    match value:
        case dict():
            yield from _of_object(value, schema, root, where)
        case list():
            yield from _bounds(len(value), "items", schema.get("minItems"), schema.get("maxItems"), where)
            first = schema.get("prefixItems", ())
            for index, item in enumerate(value):
                below = first[index] if index < len(first) else schema.get("items", True)
                yield from _violations(item, below, root, f"{where}[{index}]")
        case str():
            yield from _bounds(len(value), "characters", schema.get("minLength"), schema.get("maxLength"), where)
            if "pattern" in schema and not re.search(schema["pattern"], value):
                yield f"{where} = {value!r} does not match {schema['pattern']!r}"
        case int() | float() if not isinstance(value, bool):
            yield from _of_number(value, schema, where)


def _of_several(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[str]:
    """What values of every type may be asked: to be one of a few, and to fit other schemas."""

    def fits(below: Any) -> bool:
        return not any(_violations(value, below, root, where))

    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        yield f"{where} = {json.dumps(value)} is none of {json.dumps(schema['enum'])}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{where} = {json.dumps(value)} is not {json.dumps(schema['const'])}"
    if "$ref" in schema:
        yield from _violations(value, _resolve(schema["$ref"], root), root, where)
    for below in schema.get("allOf", ()):
        yield from _violations(value, below, root, where)
    if "anyOf" in schema and not any(map(fits, schema["anyOf"])):
        yield f"{where} = {json.dumps(value)} is none of the allowed forms"
    if "oneOf" in schema and sum(map(fits, schema["oneOf"])) != 1:
        yield f"{where} = {json.dumps(value)} is not exactly one of the allowed forms"


def _of_object(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where} has no {name!r}"
    for name, item in value.items():
        below = known.get(name, schema.get("additionalProperties", True))
        if below is False:
            yield f"{where} has {name!r}, which it may not have"
        else:
            yield from _violations(item, below, root, f"{where}.{name}")


def _of_number(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    for keyword, relation, broken in _LIMITS:
        if keyword in schema and broken(value, schema[keyword]):
            yield f"{where} = {value} is {relation} {schema[keyword]}"


def _bounds(count: int, what: str, least: int | None, most: int | None, where: str) -> Iterator[str]:
    if least is not None and count < least:
        yield f"{where} has {count} {what}, fewer than {least}"
    if most is not None and count > most:
        yield f"{where} has {count} {what}, more than {most}"


def _type_names(schema: Mapping[str, Any]) -> list[str]:
    names = schema.get("type", [])
    return [names] if isinstance(names, str) else list(names)


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _same(left: Any, right: Any) -> bool:
    """Equal as JSON: unlike in Python, true is not 1."""
    match left, right:
        case (bool(), _) | (_, bool()):
            return left is right
        case dict(), dict():
            return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
        case list(), list():
            return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for key in reference.removeprefix("#").strip("/").split("/"):
        if not reference.startswith("#") or not isinstance(found, Mapping) or (key and key not in found):
            raise GrammarError(f"The JSON Schema reference {reference!r} leads nowhere.")
        found = found[key] if key else found
    return found
