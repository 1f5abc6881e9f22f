"""Errors as OpenAI writes them, each with the status that tells who must act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from plural.errors import (
    DeadlineError,
    EngineStopped,
    LimitError,
    MachineError,
    PluralError,
    PoolError,
    PromptError,
    RunError,
    SpecialistError,
    StorageError,
    UserError,
)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every refusal and fault looks like."""

    error: ErrorDetail


class WireError(HTTPException):
    """A refusal that is the server's own. `again` are the seconds after which asking again may work."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, again: int | None = None
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.code, self.param, self.again = status, message, code, param, again


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
# The first that fits: status, code, seconds after which to ask again.
_STATUS: Sequence[tuple[type[PluralError], int, str | None, int | None]] = (
    (PoolError, 400, "context_length_exceeded", None),
    (PromptError, 400, "invalid_prompt", None),
    (SpecialistError, 409, "specialist_error", None),
    (RunError, 409, "run_error", None),
    (UserError, 400, None, None),
    (DeadlineError, 504, "deadline_exceeded", None),
    (EngineStopped, 503, "shutting_down", 5),
    (StorageError, 507, "storage_full", None),
    (LimitError, 422, "limit_reached", None),
    (MachineError, 500, None, None),
)


def error_body(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(
    status: int, message: str, *, code: str | None = None, param: str | None = None, again: int | None = None
) -> JSONResponse:
    headers: dict[str, str] = {} if again is None else {"Retry-After": str(again)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 504:
        headers["X-Should-Retry"] = "false"  # it would be asked to be too late once more
    return JSONResponse(error_body(message, status, code, param), status, headers)


def described(error: Exception) -> tuple[int, str, str | None, str | None, int | None]:
    """Status, message, code, parameter, seconds to wait. What is no refusal of ours is said in no detail."""
    if isinstance(error, WireError):
        return error.status, error.message, error.code, error.param, error.again
    if isinstance(error, PluralError):
        for kind, status, code, again in _STATUS:
            if isinstance(error, kind):
                return status, str(error), code, None, again
        return 500, str(error), None, None, None
    if isinstance(error, RecursionError):
        return 400, "The body is nested too deeply.", None, None, None
    return 500, "Something went wrong in the server; its log has the details under this request's id.", None, None, None


def wrong_fields(errors: Sequence[Mapping[str, Any]], body: object) -> tuple[str, str | None]:
    """What is wrong with a body, all of it, and the first field that it is about."""
    lines: list[str] = []
    first: str | None = None
    for one in errors[:8]:
        place = _place(one["loc"], body, missing=one["type"] == "missing")
        first = first or place
        match one["type"]:
            case "extra_forbidden":
                lines.append(f"{place} is not supported.")
            case "none_required":
                lines.append(f"{place} is not supported: leave it out.")
            case "missing":
                lines.append(f"{place or 'The body'} is missing.")
            case _:
                lines.append(f"{place or 'The body'}: {one['msg']}.")
    return " ".join(dict.fromkeys(lines)), first


def _place(location: Sequence[object], body: object, *, missing: bool) -> str | None:
    """ "messages.0.content" of ("body", "messages", 0, "user", "content", "str"): what is no key of the body says which
    of several models pydantic tried."""
    source, *steps = location
    if source != "body":
        return ".".join(map(str, steps)) or None
    at: Any = body
    parts: list[str] = []
    for index, step in enumerate(steps):
        there = step in at if isinstance(at, Mapping) else isinstance(at, list) and step in range(len(at))
        if there:
            at = at[step]
        elif not (missing and index == len(steps) - 1):
            continue
        parts.append(str(step))
    return ".".join(parts) or None
