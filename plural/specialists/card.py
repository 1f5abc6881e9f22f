"""The card of a specialist, `specialist.json`: what it is for, its contract, its scores, where it comes from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plural.errors import SpecialistError
from plural.specialists.peft_files import store
from plural.types import Difference, Score

CARD_FILE = "specialist.json"
# What may lie beside the card, so that its specialist can be scored again: the rows that are kept out of training, the
# rows that are shown to the base, and what is needed to tell rows that it was trained on.
HELDOUT_FILE, SHOTS_FILE, TRAINED_FILE = "heldout.jsonl", "shots.jsonl", "trained.safetensors"
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
_DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Contract(_Strict):
    """What every answer looks like: `source` is the schema or the options as JSON, or the pattern itself."""

    kind: Literal["json_schema", "regex", "choices"]
    source: str = Field(min_length=1)


class Trial(_Strict):
    """A candidate of a sweep: what was varied, and its held-out `loss` after `steps`; None if it diverged at once."""

    settings: dict[str, Any]
    steps: int = Field(ge=0)
    loss: float | None


class Lineage(_Strict):
    """Enough to make the specialist again. `data_sha256` is that of the file of `rows` examples; `parent` a digest.

    `sweep` are the candidates of which it is the best, itself first.
    """

    data_sha256: str
    rows: int = Field(ge=1)
    command: str
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(ge=0)
    parent: str | None = None
    sweep: tuple[Trial, ...] = ()


class Evidence(_Strict):
    """What a specialist is scored on: `rows` held-out rows, judged by `checker`. `files` are those beside the card."""

    checker: str
    rows: int = Field(ge=1)
    files: dict[Literal["heldout.jsonl", "shots.jsonl", "trained.safetensors"], Sha256]


class Promotion(_Strict):
    """When a version became the one that its name stands for, and which one it replaced.

    `warning` says why the gate would not have let it pass, when it was forced.
    """

    at: datetime
    replaced: int | None = None
    warning: str = ""


class Card(_Strict):
    """`digest` is the adapter's, `base` that of the base it was trained on. The router learns from `examples`.

    `invocation` is the adapter's own: the tokens from which on it acts; empty for one that acts on all it reads.
    Scores of `specialist` are of what is served, under its contract's grammar if it has one; `free` is without it.
    Where every answer is a call of a tool, it must call one; `free` may answer in words.
    Of the scores of one set of rows, the first of the base's is its best.
    """

    schema_version: Literal[1] = 1
    name: str = Field(pattern=rf"^{NAME_PATTERN}$")
    digest: str = Field(pattern=_DIGEST_PATTERN)
    base: str
    base_name: str
    purpose: str
    instructions: str = ""
    kind: Literal["skill", "planner"] = "skill"
    output: Contract | None = None
    tools: tuple[str, ...] = ()
    invocation: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()
    scores: dict[Literal["base", "specialist", "free"], tuple[Score, ...]] = Field(default_factory=dict)
    differences: tuple[Difference, ...] = ()
    evidence: Evidence | None = None
    lineage: Lineage | None = None
    version: int = Field(default=1, ge=1)
    promotion: Promotion | None = None
    licence: str = "unspecified"
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Raises SpecialistError if there is no card or it is not one, naming the field and its value."""
        path = folder / CARD_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SpecialistError(
                f"{folder} has no card that can be read: {error.strerror}.", hint=f"A specialist has a {CARD_FILE}."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise SpecialistError(
                f"{path}: {where} is {first['input']!r:.80}: {first['msg']}.",
                hint="The card is damaged or of another version.",
            ) from error

    def write(self, folder: Path) -> None:
        """Puts it into `folder`, whole. Raises StorageError, and then what lay there is still there."""
        store(folder / CARD_FILE, self.to_json().encode())

    def to_json(self) -> str:
        """The text of `specialist.json`."""
        return self.model_dump_json(indent=1) + "\n"
