"""One specialist on disk: a card that was read, and the folder that it lies in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plural.errors import SpecialistError
from plural.specialists.adapter import AdapterWeights
from plural.specialists.card import CARD_FILE, NAME_PATTERN, Card
from plural.specialists.peft_files import CONFIG_FILE, WEIGHTS_FILE, adapter_digest, read_adapter, read_invocation
from plural.specialists.shape import BaseShape


def check_name(name: str) -> str:
    """Returns `name`. Raises SpecialistError for one that could leave the folder or that no file system keeps apart."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecialistError(
            f"{name!r} cannot be a specialist's name.",
            hint="Use 1 to 64 of a-z, 0-9, '-' and '_', the first one a letter or a digit.",
        )
    return name


@dataclass(frozen=True)
class Specialist:
    """A card that was read, and where its adapter lies."""

    path: Path
    card: Card

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def digest(self) -> str:
        return self.card.digest

    def files(self) -> Iterator[str]:
        """The names of all files that make it up."""
        yield from (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)
        if self.card.evidence is not None:
            yield from self.card.evidence.files

    def evidence(self, name: str) -> bytes | None:
        """What one of the files beside the card holds; None if the card names no such file.

        Raises SpecialistError for one that is not what the card says.
        """
        named = self.card.evidence.files if self.card.evidence else {}
        expected = next((sha256 for file, sha256 in named.items() if file == name), None)
        if expected is None:
            return None
        path = self.path / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SpecialistError(f"{path} cannot be read: {error.strerror}.", hint="Its card names it.") from error
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise SpecialistError(
                f"{path} has the SHA-256 {actual}, by its card {expected}.",
                hint="It was changed: scores on it could not be compared with the card's.",
            )
        return content

    def verify(self) -> None:
        """Raises SpecialistError unless the files on disk are those that the card describes."""
        self._check(adapter_digest(self.path), read_invocation(self.path))
        for name in self.card.evidence.files if self.card.evidence else ():
            self.evidence(name)

    def load(self, shape: BaseShape) -> AdapterWeights:
        """The adapter's weights. Raises SpecialistError for another base, changed files, or as `read_adapter`."""
        if self.card.base != shape.digest:
            raise SpecialistError(
                f"The specialist {self.name!r} was trained on base {self.card.base} ({self.card.base_name}); "
                f"this base is {shape.digest}.",
                hint="Open that base, or train the specialist anew on this one.",
            )
        weights = read_adapter(self.path, shape)
        self._check(weights.digest, weights.config.invocation)
        return weights

    def _check(self, actual: str, invocation: tuple[int, ...]) -> None:
        if actual != self.card.digest:
            raise SpecialistError(
                f"The adapter in {self.path} is {actual}, but its card is of {self.card.digest}.",
                hint="Its files were changed: fetch or train it again.",
            )
        said = self.card.invocation
        if invocation != said:
            raise SpecialistError(
                f"The adapter in {self.path} is invoked by {list(invocation)}, by its card {list(said)}.",
                hint="Write into the card's invocation what adapter_config.json has in alora_invocation_tokens.",
            )
