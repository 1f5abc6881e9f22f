"""Every error that Plural raises, in one tree. The branch says who must act.

PluralError
├── UserError            the caller gave something that cannot work: change it
│   ├── SettingsError        an unknown or impossible option
│   ├── PromptError          empty, or longer than the context
│   ├── BaseModelError       no base model, a damaged one, or an architecture that is not supported
│   ├── SpecialistError      unknown, damaged, made for another base, or a name that leaves the library
│   ├── DataError            training or test rows that are wrong, all of them named by line
│   ├── GrammarError         a schema, regex or choice list that cannot be turned into a grammar
│   ├── ToolError            a tool whose signature does not say what it takes, or whose server cannot be reached
│   ├── PlanError            a plan or team that cannot be carried out
│   └── RunError             a run that is unknown, someone else's, or no longer what its journal says
├── ModelError           the model's output broke its contract or a limit: data for the next step
│   ├── ContractError        an answer that is not what the output contract asks for
│   └── LimitError           steps, tokens, seconds or money are used up
└── MachineError         the machine or Plural itself: retry, free something, or report it
    ├── PoolError            a request that the memory pool can never hold
    ├── DeadlineError        an answer that did not come, or could not have come, in time
    ├── NumericError         NaN or infinity where numbers must be
    ├── StorageError         a file could not be written; nothing was published
    ├── EngineStopped        the engine was closed while a request was waiting
    └── EngineLost           the engine's server is gone, or broke off: another engine can be asked the same
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence


class PluralError(Exception):
    """Base of all. `str()` is one sentence that names the value; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Callable[..., PluralError], tuple[object, ...]]:
        """An error goes from one process to another as what it says, whatever its class is made of."""
        return _said_elsewhere, (type(self), self.args, self.__dict__)


class UserError(PluralError):
    pass


class SettingsError(UserError):
    pass


class PromptError(UserError):
    pass


class BaseModelError(UserError):
    pass


class SpecialistError(UserError):
    pass


class DataError(UserError):
    """`problems` holds (line number, what is wrong) for every bad row; line numbers start at 1."""

    def __init__(self, source: str, problems: Sequence[tuple[int, str]], *, hint: str = "") -> None:
        self.source = source
        self.problems = tuple(problems)
        listed = "; ".join(f"line {number}: {what}" if number else what for number, what in self.problems[:20])
        more = f"; and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
        super().__init__(f"{source}: {listed}{more}.", hint=hint or "Nothing was trained.")


class GrammarError(UserError):
    pass


class ToolError(UserError):
    pass


class PlanError(UserError):
    """`usage` is what the answers cost that were no plan, a `plural.types.Usage` where it is known."""

    usage: object = None


class RunError(UserError):
    pass


class ModelError(PluralError):
    pass


class ContractError(ModelError):
    """`usage` is what the answers cost that no decision came of, a `plural.types.Usage` where it is known."""

    usage: object = None


class LimitError(ModelError):
    """`limit` names the budget's limit that was reached (steps, tokens, seconds, money) and `value` what it is; it is
    empty when something else than a budget set it."""

    def __init__(self, message: str, *, hint: str = "", limit: str = "", value: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.limit = limit
        self.value = value


class MachineError(PluralError):
    pass


class PoolError(MachineError):
    pass


class DeadlineError(MachineError):
    pass


class NumericError(MachineError):
    pass


class StorageError(MachineError):
    pass


class EngineStopped(MachineError):  # noqa: N818 - it says what happened; nothing went wrong
    pass


class EngineLost(MachineError):  # noqa: N818 - as above: what was asked is still right
    pass


def _said_elsewhere(kind: type[PluralError], args: tuple[object, ...], facts: Mapping[str, object]) -> PluralError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


def unknown_name(kind: str, name: str, known: Iterable[str]) -> SpecialistError:
    """The error for a name that nobody has, with the nearest names that exist."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names) or 'none'}."
    return SpecialistError(f"No {kind} is called {name!r}.", hint=hint)
