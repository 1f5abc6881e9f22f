"""Bases that were prepared once, on disk: the fused fp32 weights as safetensors, mapped into memory at the next start.

A manifest beside them names both files by size, time and SHA-256. Size and time are looked at on every start, the
hash only when one of them changed. What does not match is prepared again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from plural.errors import StorageError

# Raised when the layout of the cached file changes, so that older ones are prepared again.
_LAYOUT = 2


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` holds as long as `size` (bytes) and `mtime_ns` do."""

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, known: Fingerprint | None = None) -> Fingerprint:
        """Hashes the file unless `known` still has its size and time."""
        stat = path.stat()
        if known and (known.size, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(stat.st_size, stat.st_mtime_ns, digest)


@dataclass(frozen=True)
class Manifest:
    layout: int
    source: Fingerprint
    weights: Fingerprint


class WeightCache:
    """The prepared weights of one source file in `folder`."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder / "bases"
        self.source = source
        place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:12]
        self._manifest = self.folder / f"{source.stem}-{place}.json"

    def source_sha256(self) -> str:
        known = self._read_manifest()
        return Fingerprint.of(self.source, known.source if known else None).sha256

    def ready(self) -> bool:
        """Whether the next start finds what it needs, judged by sizes and times alone."""
        known = self._read_manifest()
        if known is None:
            return False
        try:
            pairs = [(self.source, known.source), (self._weights(known.source.sha256), known.weights)]
            return all((p.stat().st_size, p.stat().st_mtime_ns) == (k.size, k.mtime_ns) for p, k in pairs)
        except OSError:
            return False

    def load(self, sha256: str) -> dict[str, Tensor] | None:
        """The tensors, mapped, not read; None when they are absent, damaged or made from other bytes than `sha256`."""
        known = self._read_manifest()
        path = self._weights(sha256)
        if known is None or known.source.sha256 != sha256 or not path.exists():
            return None
        found = Fingerprint.of(path, known.weights)
        if found.sha256 != known.weights.sha256:
            return None
        source = Fingerprint.of(self.source, known.source)
        if (source, found) != (known.source, known.weights):
            self._write_manifest(Manifest(_LAYOUT, source, found))
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError):
            return None

    def store(self, sha256: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes weights, then manifest, each whole or not at all. Raises StorageError when the disk refuses."""
        path = self._weights(sha256)
        self._atomically(path, lambda partial: safetensors.torch.save_file(dict(tensors), partial))
        self._write_manifest(Manifest(_LAYOUT, Fingerprint.of(self.source), Fingerprint.of(path)))

    def _weights(self, sha256: str) -> Path:
        return self.folder / f"{sha256[:16]}-{_LAYOUT}.safetensors"

    def _read_manifest(self) -> Manifest | None:
        try:
            raw: dict[str, Any] = json.loads(self._manifest.read_text())
            manifest = Manifest(raw["layout"], Fingerprint(**raw["source"]), Fingerprint(**raw["weights"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return manifest if manifest.layout == _LAYOUT else None

    def _write_manifest(self, manifest: Manifest) -> None:
        text = json.dumps(asdict(manifest), indent=2)
        self._atomically(self._manifest, lambda partial: partial.write_text(text))

    def _atomically(self, path: Path, write: Callable[[Path], object]) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, safetensors.SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise StorageError(
                f"The prepared base could not be written to {path}: {error}.",
                hint="Free about 0.6 GB there, or set PLURAL_CACHE to a folder that can be written.",
            ) from error
