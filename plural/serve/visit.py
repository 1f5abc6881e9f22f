"""One request from outside, from its first byte to its last: what is known about it, for the log and for metrics."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from plural.serve.ids import fresh
from plural.serve.keys import ANYBODY, Key
from plural.types import Usage

_OURS = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(slots=True)
class Visit:
    id: str
    method: str
    path: str
    client: str
    started: float = field(default_factory=time.monotonic)
    key: Key = ANYBODY
    status: int = 0
    # What is asked, as far as it is a model that exists; never what was said.
    model: str = ""
    user: str = ""
    first: float | None = None
    usage: Usage = field(default_factory=Usage)
    error: str = ""
    gone: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def line(self, route: str) -> dict[str, Any]:
        """For the access log: no query, no header, no body, no key but its id."""
        made: dict[str, Any] = {
            "time": time.time(),
            "request": self.id,
            "method": self.method,
            "path": route or self.path[:200],
            "status": self.status,
            "seconds": round(self.seconds, 4),
            "client": self.client,
            "key": self.key.id,
        }
        if self.model:
            made |= {"model": self.model, "prompt": self.usage.prompt, "completion": self.usage.completion}
            made |= {"cached": self.usage.cached, "first": self.first and round(self.first, 4)}
        if self.user:
            made["user"] = self.user
        if self.error:
            made["error"] = self.error
        if self.gone:
            made["gone"] = True
        return made


def request_id(given: str | None) -> str:
    """The client's, if it is one that can stand in a log and a header."""
    return given if given and _OURS.fullmatch(given) else fresh("req_")
