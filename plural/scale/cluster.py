"""Joining a cluster: Ray itself, if it is there; an address, if it answers; and who is who on it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import socket
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plural import __version__
from plural.errors import MachineError, SettingsError

if TYPE_CHECKING:
    from plural.models.base import Base

APP = "plural"
ENGINE = "engine"
NAMESPACE = "plural"
# Ray started in this process, for as long as it lives.
LOCAL = "local"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
# How a client of HTTP/2, which gRPC and so Ray speak, begins; a server answers with a frame of this kind.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4


@dataclass(frozen=True, slots=True)
class Identity:
    """What all that work together must have alike. `base` is a digest."""

    version: str
    base: str
    base_name: str

    @classmethod
    def of(cls, base: Base) -> Identity:
        return cls(__version__, base.digest, base.name)

    def refuse(self, other: Identity, who: str) -> None:
        """Raises SettingsError if `other`, which is `who`'s, differs."""
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if name != "base_name" and mine != theirs:
                raise SettingsError(
                    f"{who} has the {name} {theirs!r}; here it is {mine!r}.",
                    hint="Give all nodes the same Plural and the same base (PLURAL_BASE).",
                )


def ray_module() -> Any:
    """Raises SettingsError where Ray is not installed."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every task of a CPU cluster warns
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        importlib.import_module("ray.serve")
    except ImportError as error:
        raise SettingsError("Ray is not installed.", hint="pip install 'plural[ray]'.") from error
    return importlib.import_module("ray")


def join(address: str, *, patience: float, cpus: int | None = None) -> None:
    """This process becomes part of the cluster; a second call for it does nothing. `cpus` are those of a local one.

    Raises:
        SettingsError: Ray is not installed, the address is none, or the cluster runs another Ray or Python.
        MachineError: nobody answered there within `patience` seconds.
    """
    ray = ray_module()
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"namespace": NAMESPACE, "logging_level": logging.WARNING, "log_to_driver": False}
    if address == LOCAL:
        # Without an address Ray joins whatever cluster was started on this machine last, or waits for it if it is gone.
        ray.init("local", **options, num_cpus=cpus, include_dashboard=False)
        return
    _check(address)
    left = Patience(patience)
    while True:
        try:
            _knock(address)
            ray.init(address=address, **options)
            return
        except (ConnectionError, OSError, TimeoutError, ray.exceptions.RpcError) as error:
            pause = left.pause()
            if pause is None:
                raise MachineError(
                    f"No Ray cluster answers at {address} ({patience:g} seconds tried): {error}.",
                    hint="Start one (ray start --head), or correct the address.",
                ) from error
        except RuntimeError as error:  # what Ray says of another version of Ray or Python
            ray.shutdown()
            raise SettingsError(f"The Ray cluster at {address} cannot be joined: {error}.") from error
        time.sleep(pause)


def running_replicas() -> int | None:
    """Of what is deployed on the cluster that this process has joined; None where nothing is."""
    from ray import serve

    found = serve.status().applications.get(APP)
    engines = found.deployments.get(ENGINE) if found else None
    return engines.replica_states.get("RUNNING", 0) if engines else None


class Patience:
    """How long to wait before the next try: longer each time, until so many seconds have passed since the first failure
    in a row."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Something worked."""
        self._since: float | None = None
        self._next = _FIRST_PAUSE_S

    def pause(self) -> float | None:
        """After a failure: seconds to wait; None when patience is at its end."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left = self._since + self.seconds - now
        if left <= 0:
            return None
        waits = min(self._next * random.uniform(0.5, 1.0), left)
        self._next = min(2 * self._next, _LONGEST_PAUSE_S)
        return waits


def _check(address: str) -> None:
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise SettingsError(f"cluster is {address!r}.", hint="Known: host:port, auto, local.")


def _knock(address: str) -> None:
    """Ray itself would wait for minutes for a host that is not there or is no Ray, and then end the process. Raises
    OSError."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), timeout=3.0)) as line:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        line.sendall(_PREFACE)
        try:
            frame = line.recv(9)
        except TimeoutError:
            frame = b""
        if len(frame) < 4 or frame[3] != _SETTINGS_FRAME:
            raise ConnectionError("what answers there is no Ray")
