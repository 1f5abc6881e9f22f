"""Where a tool may go: hosts by name, and then the addresses that they turn out to have.

A model, or a page that it has read, may ask for any URL. A host must be on the list, and every address that its name
resolves to must be one of the public internet, or in a network that was allowed by hand. The check is of the address
that is then connected to, so a name that resolves differently the next time gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from langchain_core.tools import ToolException

from plural.errors import SettingsError

# Given a host's name and a port, its addresses.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}
_LONGEST = 2000  # characters of a URL
_NAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*")
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_AZURE_HOST = ipaddress.IPv4Address("168.63.129.16")  # a public address, but the virtual machine's own host answers


@dataclass(frozen=True, slots=True)
class Host:
    """One entry of the list: a name, `*.name` for all below it, or an address; with a port, or the usual ones."""

    name: str
    port: int | None

    def covers(self, name: str, port: int) -> bool:
        if port not in (_PORTS.values() if self.port is None else (self.port,)):
            return False
        return name.endswith(self.name[1:]) if self.name.startswith("*.") else name == self.name


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked for. `host` is lower-case ASCII; an IPv6 address has no brackets."""

    url: str
    secure: bool
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Gate:
    hosts: tuple[Host, ...]
    networks: tuple[Network, ...]
    resolve: Resolve

    def target(self, url: str) -> Target:
        """Raises ToolException for what is no plain http(s) URL of a host on the list."""
        if len(url) > _LONGEST or re.search(r"[\x00-\x20\x7f\\]", url):
            raise ToolException(f"url = {url[:_LONGEST]!r} is too long or has characters that no URL has")
        try:
            parts = urlsplit(url)
            host = _canonical((parts.hostname or "").rstrip("."))
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except (ValueError, UnicodeError) as error:
            raise ToolException(f"url = {url!r} is not a URL: {error}") from error
        if parts.scheme not in _PORTS or not host:
            raise ToolException(f"url = {url!r} is not a URL that begins with http:// or https://")
        if parts.username is not None or parts.password is not None:
            raise ToolException(f"url = {url!r} carries a user's name; such URLs are not read")
        if not any(each.covers(host, port) for each in self.hosts):
            known = ", ".join(_written(each) for each in self.hosts)
            raise ToolException(f"url = {url!r}: the host {host}:{port} is not on the list of hosts: {known}")
        return Target(url, parts.scheme == "https", host, port)

    async def addresses(self, target: Target) -> list[str]:
        """The addresses to connect to. One that is not allowed spoils all: an honest name has none."""
        try:
            literal = _address(target.host) is not None
            found = [target.host] if literal else await self.resolve(target.host, target.port)
        except OSError as error:
            raise ToolException(f"url = {target.url!r}: {target.host} has no address: {error}") from error
        if not found:
            raise ToolException(f"url = {target.url!r}: {target.host} has no address")
        for address in found:
            if not self._allowed(address):
                raise ToolException(
                    f"url = {target.url!r}: {target.host} has the address {address}, which is not public and not in a "
                    "network that is allowed"
                )
        return list(found)

    def _allowed(self, written: str) -> bool:
        address = _address(written)
        if address is None:
            return False
        meant = _embedded(address)
        return any(meant in network for network in self.networks) or _is_public(meant)


def gate(hosts: Sequence[str], networks: Sequence[str], resolve: Resolve | None) -> Gate:
    """Raises SettingsError for an empty list, or an entry that is no host or network."""
    if not hosts:
        raise SettingsError("The list of hosts is empty.", hint="Name the hosts that may be read: docs.python.org.")
    try:
        allowed = tuple(ipaddress.ip_network(network) for network in networks)
    except ValueError as error:
        raise SettingsError(f"{error}.", hint="Write a network as 192.168.0.0/24.") from error
    return Gate(tuple(map(_host, hosts)), allowed, resolve or _system)


def _host(text: str) -> Host:
    name, _, port = text.lower().rpartition(":") if re.search(r"[^:]:\d+$|\]:\d+$", text) else (text.lower(), "", "")
    name = name.strip("[]")
    if not _NAME.fullmatch(name) and _address(name) is None:
        raise SettingsError(
            f"{text!r} is not a host.", hint="Write docs.python.org, *.wikipedia.org or localhost:8000."
        )
    return Host(_canonical(name), int(port) if port else None)


def _canonical(name: str) -> str:
    """One spelling for a host. Raises UnicodeError for what is no name."""
    address = _address(name)
    return str(address) if address else name.encode("idna").decode() if name else ""


def _address(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _written(host: Host) -> str:
    return host.name if host.port is None else f"{host.name}:{host.port}"


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, in any of the ways to write one into it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return low
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_IPV6:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and address != _AZURE_HOST


async def _system(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
