"""The network as the server sees it (plural/serve/backend.py), and the server over it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plural.agents import Agent
from plural.errors import SettingsError, SpecialistError, StorageError, unknown_name
from plural.serve import Keyring, Model, Server, ServeSettings, Store
from plural.serve.backend import Lesson, News, Runner
from plural.serve.keys import SCOPES, Key, make_key, read_keys, write_keys
from plural.serve.run import check_exposure, run
from plural.specialists import Card, Specialist, adapter_digest, read_invocation
from plural.specialists.card import CARD_FILE
from plural.teams import Team
from plural.types import Asked
from plural.wiring.engines import adapter_store
from plural.wiring.network import BASE, MIXED, WEIGHT, Network
from plural.wiring.offers import Offers, read_offers
from plural.wiring.publishing import promote_if_not_worse
from plural.wiring.school import School, read_school
from plural.wiring.serving_runs import TEAM, ServedRuns
from plural.wiring.speakers import NETWORK, NetworkSpeaker, WorkerSpeaker
from plural.wiring.stages import Stage
from plural.wiring.training import train_school

if TYPE_CHECKING:
    from plural.engine.speaker import Speaker as TokenSpeaker

KEYS_FILE = Path("~/.local/share/plural/keys.json")
DATA_FOLDER = Path("~/.local/share/plural/server")


@dataclass(frozen=True)
class ServeOrder:
    """How to serve, checked."""

    settings: ServeSettings
    keys: Keyring

    @property
    def folder(self) -> Path:
        """Where the server keeps what clients left with it."""
        return (self.settings.data or DATA_FOLDER).expanduser().absolute()

    def journal(self, given: str | None) -> str:
        """Where runs are written: where it is said, else beside the rest. A new file is its owner's alone.

        Raises:
            StorageError: it cannot be made.
        """
        if given is not None:
            return given
        path = self.folder / "journal.db"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        except OSError as error:
            raise StorageError(f"{path} could not be made: {error.strerror}.", hint="Choose another --data.") from error
        return str(path)


def read_order(given: Mapping[str, Any]) -> ServeOrder:
    """`given` are fields of ServeSettings, None is not given. Raises SettingsError for options that cannot be."""
    settings = ServeSettings.of(**given)
    secret = settings.api_key.get_secret_value() if settings.api_key else None
    keys = Keyring(secret, _keys_file(settings.keys))
    check_exposure(settings, keys)
    return ServeOrder(settings, keys)


def read_aliases(given: Sequence[str]) -> dict[str, str]:
    """Of "NAME=MODEL" each. Raises SettingsError for what is written otherwise."""
    pairs = [one.partition("=") for one in given]
    for one, (name, _, model) in zip(given, pairs, strict=True):
        if not name or not model:
            raise SettingsError(f"alias: {one!r} is not NAME=MODEL.", hint="For example gpt-4o-mini=base.")
    return {name: model for name, _, model in pairs}


def serve(network: Network, order: ServeOrder, told: Callable[[str], None], *, offers: Sequence[str] = ()) -> None:
    """Puts the network on the wire until a signal; `told` gets the address. `offers` are MODULE:NAMEs.

    Raises:
        SettingsError: something that is offered is not there, or cannot be.
        MachineError: it cannot listen.
    """
    folder = order.folder
    store = Store(folder / "records.sqlite")
    try:
        served = ServedNetwork(network, read_offers(network, offers), folder / "teams")
        for model in order.settings.aliases.values():
            served.model(model)  # an alias of nobody is said now, not to a client
        server = Server(served, order.settings, order.keys, store, folder / "files")
        run(server, order.settings, told)
    finally:
        store.close()


# ---------------------------------------------------------------------------------------------------------------- keys
def add_key(file: Path | None, scopes: Sequence[str], note: str) -> tuple[str, Key]:
    """Raises SettingsError for a scope that there is not."""
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown:
        raise SettingsError(f"There is no scope {unknown[0]!r}.", hint=f"Scopes: {', '.join(SCOPES)}.")
    secret, key = make_key([scope for scope in SCOPES if scope in scopes], note)
    path = _keys_file(file)
    write_keys(path, (*read_keys(path), key))
    return secret, key


def list_keys(file: Path | None) -> tuple[Key, ...]:
    return read_keys(_keys_file(file))


def remove_key(file: Path | None, key: str) -> None:
    """Raises SettingsError for an id that no key has."""
    path = _keys_file(file)
    keys = read_keys(path)
    left = [one for one in keys if one.id != key]
    if len(left) == len(keys):
        raise SettingsError(f"No key has the id {key!r}.", hint="plural keys list shows them.")
    write_keys(path, left)


def _keys_file(given: Path | None) -> Path:
    return (given or KEYS_FILE).expanduser().absolute()


class ServedNetwork:
    """A `Backend`."""

    def __init__(self, network: Network, offers: Offers = Offers(), teams: Path | None = None) -> None:
        """`teams` is the folder of saved ones; without it, and without the network's journal, there are no runs."""
        self.network, self.offers = network, offers
        network.tools |= offers.tools
        journaled = teams is not None and network.settings.journal is not None
        self._runs = ServedRuns(network, offers, teams) if journaled and teams else None
        self.runner: Runner | None = self._runs
        self.library = network.library
        self.base_id = BASE
        self.base_name = network.base_model.name
        self.digest = network.base_model.digest
        self.context = network.base_model.context
        self.max_tokens = network.settings.max_tokens
        self.shelves = (self.library.root, adapter_store(network.settings).root)
        self._pinned: dict[str, str] = {}
        self._publishing = asyncio.Lock()

    # ------------------------------------------------------------------------------------------------------- models
    def models(self) -> Sequence[Model]:
        added = [*self.offers.workers, *(TEAM + name for name in (self.runner.teams() if self.runner else ()))]
        return [*map(self.model, (NETWORK, BASE)), *map(_model, self.network.mine()), *map(self.model, added)]

    def model(self, name: str) -> Model:
        created = int(self.network.base_model.source.stat().st_mtime)
        if name == NETWORK:
            return Model(NETWORK, created, "", "The router chooses who answers.", parent=BASE)
        if name == BASE:
            return Model(BASE, created, self.digest, "The base itself.")
        if worker := self._worker(name):
            return Model(name, created, "", worker.description, parent=BASE)
        if MIXED in name or WEIGHT in name:
            self.network.mixed(name)
            return Model(name, created, "", "A mixture of specialists.", parent=BASE)
        return _model(self._specialist(name), name)

    def speaker(self, name: str) -> TokenSpeaker | NetworkSpeaker | WorkerSpeaker:
        if name == NETWORK:
            return NetworkSpeaker(self.network)
        if worker := self._worker(name):
            return WorkerSpeaker(worker, self.max_tokens)
        if name == BASE:
            return self.network.base.speaker
        if MIXED in name or WEIGHT in name:
            return self.network.mixed(name).speaker
        return self.network.model(self._specialist(name)).speaker

    async def score(self, name: str, texts: Sequence[str | Sequence[int]]) -> list[Sequence[tuple[int, float | None]]]:
        speaker = self._token_speaker(name)
        encode = self.network.base_model.tokenizer.encode
        read = [encode(text) if isinstance(text, str) else list(text) for text in texts]
        scores = await asyncio.gather(*(speaker.score(tokens) for tokens in read))
        return [list(zip(tokens, [None, *row], strict=True)) for tokens, row in zip(read, scores, strict=True)]

    async def count(self, name: str, asked: Asked) -> int:
        request, _ = await asyncio.to_thread(self._token_speaker(name).request, asked)
        return len(request.prompt)

    async def embed(self, texts: Sequence[str | Sequence[int]]) -> tuple[list[list[float]], int]:
        encode = self.network.base_model.tokenizer.encode
        read = [await asyncio.to_thread(encode, text) if isinstance(text, str) else list(text) for text in texts]
        return await self.network.engine.embed(read), sum(map(len, read))

    def stats(self) -> Mapping[str, float]:
        stats = self.network.engine.stats()
        return {**asdict(stats), "adapters": len(stats.adapters)}

    # ------------------------------------------------------------------------------------------------------ library
    async def lend(self, name: str, path: Path, *, replace: bool) -> Model:
        lent = name in self.library.lent
        if name in (NETWORK, BASE) or (name in self.library and not lent):
            raise SpecialistError(f"{name!r} is served already, and was not lent.", hint="Choose another name.")
        if lent and not replace:
            raise SpecialistError(f"{name!r} is loaded already.", hint="Unload it first, or set load_inplace.")
        specialist = await asyncio.to_thread(self._read, name, path)
        self.library.lend(specialist)
        return _model(specialist)

    def take_back(self, name: str) -> None:
        self.library.take_back(name)

    async def pin(self, name: str) -> None:
        if name in self._pinned:
            await self.unpin(name)
        digest = self._specialist(name).digest
        await asyncio.to_thread(self.network.engine.pin, digest)
        self._pinned[name] = digest

    async def unpin(self, name: str) -> None:
        if name not in self._pinned:
            raise SpecialistError(f"{name!r} is not pinned.", hint=f"Pinned: {', '.join(self._pinned) or 'nothing'}.")
        await asyncio.to_thread(self.network.engine.unpin, self._pinned.pop(name))

    async def publish(self, name: str, what: int | Path, *, force: bool) -> Mapping[str, Any]:
        async with self._publishing:
            if isinstance(what, Path):
                candidate = await asyncio.to_thread(self._keep, name, what)
            else:
                candidate = self.library.get(f"{name}@{what}")
            stages, published = await asyncio.to_thread(self._promote, candidate, force)
        told = [stage.result for stage in stages if stage.result]
        return {"id": name, "version": published.card.version, "digest": published.digest, "told": told}

    def rollback(self, name: str) -> Model:
        return _model(self.library.rollback(name))

    async def remove(self, name: str) -> None:
        if name in self.library.lent:
            raise SpecialistError(f"{name!r} was lent to the server.", hint="Unload it instead.")
        if name in self._pinned:
            await self.unpin(name)
        await asyncio.to_thread(self.library.remove, name)

    # ----------------------------------------------------------------------------------------------------- training
    def train(self, lesson: Lesson) -> Iterator[News]:
        school = self.school(lesson)
        return (_news(stage) for stage in train_school(school, self.network))

    def school(self, lesson: Lesson) -> School:
        """The lesson as an order to train. Raises what is wrong with it."""
        from plural.train import TrainSettings

        rate = None if lesson.rate is None else lesson.rate * TrainSettings().learning_rate
        said = {
            **lesson.settings,
            "purpose": lesson.purpose or None,
            "instructions": lesson.instructions or None,
            "checker": lesson.checker,
            "test": lesson.test,
            "learning_rate": rate,
        }
        school = read_school(
            [lesson.data],
            [lesson.name],
            said,
            command="POST /v1/fine_tuning/jobs",
            replace=lesson.replace,
            resume=lesson.resume,
        )
        taken = lesson.name in (NETWORK, BASE) or lesson.name in self.library.lent
        again = lesson.replace or lesson.resume  # the training itself knows what it has published
        if taken or (lesson.name in self.library and not again):
            raise SpecialistError(f"The name {lesson.name!r} is taken.", hint="Choose another suffix, or set replace.")
        return school

    # ------------------------------------------------------------------------------------------------------- inside
    def _token_speaker(self, name: str) -> TokenSpeaker:
        speaker = self.speaker(name)
        if isinstance(speaker, NetworkSpeaker | WorkerSpeaker):
            raise SettingsError(
                f"The model {name!r} has no tokens.", hint="Name a specialist or the base as the model."
            )
        return speaker

    def _worker(self, name: str) -> Agent | Team | None:
        """Raises SpecialistError for the id of a team that is not there."""
        if name in self.offers.workers:
            return self.offers.workers[name]
        return self._runs.team(name) if self._runs else None

    def _specialist(self, name: str) -> Specialist:
        """Raises SpecialistError for one that is not there, or is another base's."""
        found = self.library.get(name)
        if found.card.base != self.digest:
            raise unknown_name("specialist of this base", name, [BASE, *self.network.names()])
        return found

    def _read(self, name: str, path: Path) -> Specialist:
        """An adapter with the card beside it, or one that says no more than what it is."""
        base = self.network.base_model
        if (path / CARD_FILE).exists():
            card = Card.read(path).model_copy(update={"name": name})
        else:
            card = Card(
                name=name,
                digest=adapter_digest(path),
                base=base.digest,
                base_name=base.name,
                purpose="Lent to the server.",
                invocation=read_invocation(path),
            )
        specialist = Specialist(path, card)
        specialist.load(base.shape)
        return specialist

    def _keep(self, name: str, path: Path) -> Specialist:
        """An adapter as a version that the library keeps."""
        if name in (NETWORK, BASE, *self.offers.workers, *self.library.lent):
            raise SpecialistError(f"{name!r} is not the library's.", hint="Unload it first, or choose another name.")
        card = Card.read(path)
        if card.base != self.digest:
            raise SpecialistError(f"{name!r} was trained on {card.base_name}, not on {self.base_name}.")
        Specialist(path, card).load(self.network.base_model.shape)
        return self.library.keep(path, name=name)

    def _promote(self, candidate: Specialist, force: bool) -> tuple[list[Stage], Specialist]:
        stages: list[Stage] = []
        work = promote_if_not_worse(self.network.settings, candidate, force=force, opened=self.network)
        while True:
            try:
                stages.append(next(work))
            except StopIteration as end:
                return stages, end.value


def _news(stage: Stage) -> News:
    """What a client is told: no paths of this machine, and no numbers that JSON has no word for."""
    facts = {name: None if _is_nan(value) else value for name, value in stage.facts.items() if name != "path"}
    if stage.stage == "publishing":
        return News("It is in the network.", facts)
    return News(stage.result or f"{stage.stage}: {stage.note or f'{stage.done:.0%}'}", facts)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _model(specialist: Specialist, name: str = "") -> Model:
    card = specialist.card
    return Model(
        name or card.name, int(card.created.timestamp()), card.digest, card.purpose, parent=BASE, version=card.version
    )
