"""Composed mathematics: questions whose sentences are primitive questions, chained by the symbols they define.

    python recipes/starter/composed.py              what splits into known steps, and whether the steps lead to the gold
    python recipes/starter/composed.py --freeze DIR draw two files anew (these were drawn before seeds repeated)

The questions are those of eight `*_composed` modules of DeepMind's `mathematics-dataset` (Apache-2.0), a hundred of
each in `easy` (the easiest third of its training difficulty) and in `interpolate` (its official test). A chain's steps
are asked one after another: `Step.asked` fills the values found so far into the wording of the primitive, and
`Chain.answer` names what the last answer means. None of these questions is ever trained on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Self

import sympy
from maths import Kind, solved
from sources import FAR, problems
from worked import shown

from plural.evals.finals import equal_value

FILES = Path(__file__).parents[2] / "benchmarks" / "composed"
SPLITS = {"easy": "train-0", "interpolate": "interpolate"}
MODULES = (
    "numbers__gcd",
    "numbers__div_remainder",
    "numbers__round_number",
    "numbers__place_value",
    "numbers__is_prime",
    "comparison__sort",
    "comparison__kth_biggest",
    "algebra__linear_1d",
)
EACH = 100
Values = Mapping[str, str]


# --------------------------------------------------------------------------------------------------------------- chains
@dataclass(frozen=True)
class Step:
    """One primitive question; `{s}` in its text stands for a symbol that an earlier step `defines`."""

    kind: Kind
    text: str
    defines: str = ""

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(re.findall(r"\{(\w+)\}", self.text)))

    def asked(self, values: Values) -> str:
        """The question with the values of the symbols, written as the primitive writes numbers."""
        return substituted(self.kind, self.text, values)


@dataclass(frozen=True)
class Chain:
    """A question, its gold answer and its steps. `named` are the things that the last step puts in order."""

    module: str
    sentences: int
    question: str
    gold: str
    steps: tuple[Step, ...]
    named: tuple[str, ...] = ()

    def answer(self, values: Values, last: str) -> str:
        """The last step's answer in the words of the question: a sorted list names symbols, not their values."""
        worth = {name.strip("{}"): substituted("finalstep", name, values) for name in self.named}
        return by_name(worth, last)

    def followed(self, solve: Callable[[Step, str], str]) -> str:
        """The answer that the steps lead to when `solve` answers each of them."""
        values: dict[str, str] = {}
        for step in self.steps:
            values[step.defines] = solve(step, step.asked(values))
        return self.answer(values, values[""])


def by_name(worth: Values, answer: str) -> str:
    """A list of values with the names that they have in `worth`; anything else as it is."""
    left = dict(worth)
    found = []
    for text in answer.split(", "):
        name = next((name for name, value in left.items() if equal_value(text, value) == 1.0), text)
        left.pop(name, None)
        found.append(name)
    return ", ".join(found)


def in_words_of(question: str, task: str, answer: str) -> str:
    """An answer to the last task of a plan, in the words of the question: `Sort w, 4, l.` was asked as
    `Sort -5, 4, 2.`"""
    names, values = _listed(question), _listed(task)
    return by_name(dict(zip(names, values, strict=True)), answer) if len(names) == len(values) else answer


def _listed(text: str) -> list[str]:
    """What the last sentence of a text wants in order; nothing if it wants anything else."""
    last = _SENTENCES.split(text)[-1]
    found = _SORT.fullmatch(last) or _KTH.fullmatch(last)
    return found[2].split(", ") if found else []


def substituted(kind: Kind, text: str, values: Values) -> str:
    while found := re.search(r"\{(\w+)\}", text):
        before, value, after = text[: found.start()], values[found[1]], text[found.end() :]
        if kind in ("linear", "polyeval") and value.startswith("-") and (sign := re.search(r"([-+]) ?$", before)):
            text = _merged(before[: sign.start()], sign[1]) + value[1:] + after
        else:
            text = before + (f"({value})" if _misread(kind, before, value, after) else value) + after
    return text


def _misread(kind: Kind, before: str, value: str, after: str) -> bool:
    """Whether a value needs brackets: a sign or a fraction beside * or /, a sign after another without a space."""
    if "/" in value:
        return kind == "exprs"
    tight = before.endswith(("*", "/")) or (kind == "exprs" and after.startswith(("*", "/")))
    return value.startswith("-") and (tight or (kind == "exprs" and before.endswith("-")))


def _merged(before: str, sign: str) -> str:
    """A sign before a negative number becomes the other one; at the start of a side a plus is not written."""
    starts = not before.strip() or before.rstrip().endswith(("=", "(", ",", "Solve"))
    return before + (("" if sign == "-" else "-") if starts else "+ " if sign == "-" else "- ")


# ------------------------------------------------------------------------------------------------------------ splitting
class Unsplit(ValueError):  # noqa: N818 - it is no error: some questions have sentences that no primitive is for
    """A sentence that is no known step."""


_SENTENCES = re.compile(r"(?<=[.?])\s+(?=[A-Z])")
_FUNCTION = re.compile(r"Let ([a-z])\(([a-z])\) = (.+)\.")
_VALUE = re.compile(r"Let ([a-z]) (?:be|=) (.+)\.")
_SUPPOSE = re.compile(r"Suppose (.+)\.")
_CALL = re.compile(r"\b([a-z])\(((?:[^()]|\([^()]*\))*)\)")
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?|\{\w+\}")
_LAST = tuple(
    re.compile(pattern)
    for pattern in (
        r"((?:Calculate|What is) the (?:greatest|highest) common (?:divisor|factor) of )(.+)( and )(.+)([.?])",
        r"((?:Calculate|What is) the remainder when )(.+)( is divided by )(.+)([.?])",
        r"(Round )(.+)( to .+\.)",
        r"(What is )(.+)( rounded to .+\?)",
        r"(What is the [a-z ]+ digit of )(.+)(\?)",
        r"(Is )(.+?)( (?:a )?(?:prime|composite)(?: number)?\?)",
    )
)
_SORT = re.compile(r"((?:Sort|Put) )(.+?)((?: in \w+ order)?\.)")
_KTH = re.compile(r"(What is the (?:\w+ )?(?:biggest|smallest) value in )(.+)(\?)")
_WHICH = re.compile(r"(Which is the (?:\w+ )?(?:biggest|smallest) value\?)((?:  \([a-z]\) \S+)+)")
_SOLVE = re.compile(r"Solve (.+) for ([a-z])\.")


@dataclass
class Splitter:
    """Reads a question sentence by sentence; knows what is defined so far."""

    steps: list[Step] = field(default_factory=list)
    named: tuple[str, ...] = ()
    _functions: dict[str, tuple[str, str]] = field(default_factory=dict)
    _defined: set[str] = field(default_factory=set)
    _fresh: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def read(self, question: str) -> Self:
        *sentences, last = _SENTENCES.split(question)
        for sentence in sentences:
            self._sentence(sentence)
        self._last(last)
        self._prune()
        return self

    def _sentence(self, sentence: str) -> None:
        if found := _FUNCTION.fullmatch(sentence):
            self._functions[found[1]] = (found[2], self._marked(found[3], bound=found[2]))
        elif "derivative" in sentence:
            raise Unsplit(sentence)
        elif found := _VALUE.fullmatch(sentence):
            self._value(found[2], found[1])
        elif found := _SUPPOSE.fullmatch(sentence):
            equations = self._plain_calls(self._marked(found[1]))
            unknown = sorted(set(re.findall(r"[a-z]", re.sub(r"\{\w+\}", "", equations))))
            if not unknown or len(unknown) > 2:
                raise Unsplit(sentence)
            for symbol in unknown:
                self.steps.append(Step("linear", f"Solve {equations} for {symbol}.", symbol))
            self._defined.update(unknown)
        else:
            raise Unsplit(sentence)

    def _marked(self, text: str, *, bound: str = "") -> str:
        """Symbols that are defined become `{s}`, but for a function's own argument."""
        known = self._defined - {bound}
        return re.sub(r"\b([a-z])\b(?!\()", lambda found: f"{{{found[1]}}}" if found[1] in known else found[1], text)

    def _value(self, text: str, defines: str) -> None:
        """A step that defines a symbol: a function's value, or an expression."""
        text = self._marked(text)
        call = _CALL.fullmatch(text)
        if call and call[1] in self._functions:
            self._call(call[1], call[2], defines)
        else:
            self._expression(self._plain_calls(text), defines)
        self._defined.add(defines)

    def _expression(self, text: str, defines: str) -> None:
        if re.search(r"[a-z]", re.sub(r"\{\w+\}", "", text)):
            raise Unsplit(text)
        self.steps.append(Step("exprs", f"Calculate {text}.", defines))

    def _plain_calls(self, text: str) -> str:
        """Every call in a text is worked out before, and stands there as a symbol of its own."""
        while found := _CALL.search(text):
            if found[1] not in self._functions:
                raise Unsplit(text)
            text = text[: found.start()] + self._call(found[1], found[2]) + text[found.end() :]
        return text

    def _call(self, name: str, argument: str, defines: str = "") -> str:
        """A function at a number. One that is made of other functions asks for theirs first."""
        symbol, body = self._functions[name]
        argument = self._entity(argument)
        defines = defines or f"s{next(self._fresh)}"
        if not _CALL.search(body):
            text = f"Let {name}({symbol}) = {body}. What is {name}({argument})?"
            self.steps.append(Step("polyeval", text, defines))
        else:
            filled = re.sub(rf"\b{symbol}\b(?!\()", argument.replace("\\", ""), body)
            self._expression(self._plain_calls(filled), defines)
        return f"{{{defines}}}"

    def _entity(self, text: str) -> str:
        """A number or a symbol as it is; anything else is worked out by a step of its own."""
        text = self._plain_calls(self._marked(text) if "{" not in text else text)
        if _PLAIN.fullmatch(text):
            return text
        defines = f"s{next(self._fresh)}"
        self._expression(text, defines)
        return f"{{{defines}}}"

    def _last(self, sentence: str) -> None:
        if found := _SOLVE.fullmatch(sentence):
            self.steps.append(Step("linear", f"Solve {self._plain_calls(self._marked(found[1]))} for {found[2]}."))
            return
        if found := _WHICH.fullmatch(sentence):
            choices = re.findall(r"  \(([a-z])\) (\S+)", found[2])
            text = found[1] + "".join(f"  ({letter}) {self._entity(value)}" for letter, value in choices)
        elif found := _SORT.fullmatch(sentence) or _KTH.fullmatch(sentence):
            self.named = tuple(map(self._entity, found[2].split(", ")))
            text = found[1] + ", ".join(self.named) + found[3]
        elif found := next((match for each in _LAST if (match := each.fullmatch(sentence))), None):
            parts = found.groups()
            text = "".join(self._entity(part) if place % 2 else part for place, part in enumerate(parts))
        else:
            raise Unsplit(sentence)
        self.steps.append(Step("finalstep", text))

    def _prune(self) -> None:
        """What no later step uses is not asked: two equations define two symbols, often one is needed."""
        kept: list[Step] = []
        needed = {""}
        for step in reversed(self.steps):
            if step.defines in needed:
                kept.append(step)
                needed.update(step.uses)
        self.steps = kept[::-1]


def split(module: str, question: str, gold: str) -> Chain:
    """Raises Unsplit for a question with a sentence that no primitive is for."""
    done = Splitter().read(question)
    return Chain(module, sentences(question), question, gold, tuple(done.steps), done.named)


def sentences(question: str) -> int:
    return len(_SENTENCES.split(question))


# --------------------------------------------------------------------------------------------------------------- oracle
def oracle(step: Step, question: str) -> str:
    """The right answer of a primitive question by SymPy; the last steps by what makes their worked answers."""
    match step.kind:
        case "exprs":
            text = question.removeprefix("Calculate ").removesuffix(".")
            return _written(_sympy(text), decimal="." in text)
        case "linear":
            found = _SOLVE.fullmatch(question)
            assert found is not None  # the splitter's own wording
            sides = [_sympy(left) - _sympy(right) for left, right in (one.split(" = ") for one in found[1].split(", "))]
            solutions = sympy.solve(sides, sorted({s for side in sides for s in side.free_symbols}, key=str), dict=True)
            wanted = sympy.Symbol(found[2])
            if len(solutions) != 1 or wanted not in solutions[0]:
                raise ValueError(f"{question!r} has no single solution")
            return _written(solutions[0][wanted])
        case "polyeval":
            definition, _, asked = question.partition(". What is ")
            (symbol,) = re.findall(r"^Let [a-z]\(([a-z])\) = ", definition)
            body = _sympy(definition.partition(" = ")[2])
            return _written(body.subs(sympy.Symbol(symbol), _sympy(asked[2:-2])))
    return solved(step.kind, question)[1]


def _sympy(text: str) -> sympy.Expr:
    if not re.fullmatch(r"[-+*/(). \da-z]+", text) or re.search(r"[a-z]{2}", text):
        raise ValueError(f"{text!r} is no formula")
    names = {letter: sympy.Symbol(letter) for letter in "abcdefghijklmnopqrstuvwxyz"}
    rational = re.sub(r"\d+\.\d+", lambda found: f"({Fraction(found[0])})", text)
    try:
        return sympy.parse_expr(rational, local_dict=names)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no formula") from error


def _written(value: sympy.Expr, *, decimal: bool = False) -> str:
    if not isinstance(value, sympy.Rational):
        raise ValueError(f"{value} is no rational number")
    return shown(Fraction(int(value.p), int(value.q)), decimal=decimal)


# ---------------------------------------------------------------------------------------------------------------- files
def rows(name: str) -> list[dict[str, str]]:
    """The frozen questions of "easy" or "interpolate": module, sentences, question, answer."""
    return [json.loads(line) for line in (FILES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def chains(name: str) -> tuple[list[Chain], list[dict[str, str]]]:
    """The questions that split into known steps, and those that do not."""
    found, left = [], []
    for row in rows(name):
        try:
            found.append(split(row["module"], row["question"], row["answer"]))
        except Unsplit:
            left.append(row)
    return found, left


def freeze(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, source in SPLITS.items():
        lines = []
        for module in MODULES:
            drawn = dict.fromkeys(problems(f"{module}_composed", source, 2 * EACH, FAR))
            fresh = [(question, gold) for question, gold in drawn if question not in seen][:EACH]
            seen.update(question for question, _ in fresh)
            for question, gold in fresh:
                row = {"module": module, "sentences": sentences(question), "question": question, "answer": gold}
                lines.append(json.dumps(row, separators=(",", ":")) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def report(name: str) -> None:
    found, left = chains(name)
    right: Counter[str] = Counter()
    wrong: list[str] = []
    for chain in found:
        try:
            answer = chain.followed(oracle)
        except ValueError as error:
            answer = str(error)
        right[chain.module] += answer == chain.gold
        if answer != chain.gold:
            wrong.append(f"    {chain.question!r}: {answer}, not {chain.gold}")
    lengths: dict[str, Counter[int]] = defaultdict(Counter)
    for chain in found:
        lengths[chain.module][len(chain.steps)] += 1
    total = Counter(row["module"] for row in rows(name))
    print(f"{name}: of {total.total()} questions {len(found)} split, {right.total()} lead to the gold answer")
    for module in MODULES:
        steps = ", ".join(f"{count} of {number}" for number, count in sorted(lengths[module].items()))
        print(f"  {module:26} {lengths[module].total():3} split, {right[module]:3} right; steps: {steps}")
    kinds = Counter(step.kind for chain in found for step in chain.steps)
    print(f"  steps by kind: {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}")
    print("\n".join(wrong[:10]))
    print("\n".join(f"    not split: {row['question']}" for row in left[:4]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freeze", type=Path, metavar="DIR", help="draw the questions anew into this folder")
    given = parser.parse_args()
    if given.freeze:
        freeze(given.freeze)
    else:
        for name in SPLITS:
            report(name)


if __name__ == "__main__":
    main()
