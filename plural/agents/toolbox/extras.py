"""What is said when a library that not everybody needs is not there."""

from __future__ import annotations

from plural.errors import SettingsError


def missing(package: str, extra: str, tool: str) -> SettingsError:
    """The error for a tool whose library, part of an extra, is not installed."""
    return SettingsError(f"{tool} needs the package {package!r}.", hint=f"Install it: pip install 'plural[{extra}]'")
