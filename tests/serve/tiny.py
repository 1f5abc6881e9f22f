"""A network that answers in a moment: a tiny random base, specialists in a real library, a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from starlette.types import ASGIApp

from plural.engine import Engine, EngineSettings
from plural.evals import Row, Task
from plural.models.base import Base
from plural.models.chat import ChatFormat
from plural.models.tokenizer import Tokenizer
from plural.serve import Keyring, Server, ServeSettings, Store
from plural.serve.run import Listener
from plural.specialists import AdapterConfig, AdapterWeights, Card, Library, adapter_digest, write_adapter
from plural.types import Message
from plural.wiring.network import Network
from plural.wiring.offers import Offers
from plural.wiring.scoring import Exam, write_evidence
from plural.wiring.serving import ServedNetwork
from plural.wiring.settings import Settings
from tests.engine.tiny import CONFIG, tiny_decoder
from tests.models.tiny import TEMPLATE, backend

DIGEST = "sha256:" + "b" * 64


def tiny_base(source: Path) -> Base:
    config = replace(CONFIG, max_positions=4096)
    tokenizer = Tokenizer(backend())
    chat = ChatFormat(tokenizer, TEMPLATE)
    return Base("tiny", DIGEST, tiny_decoder(config=config), tokenizer, chat, config, source)


def stage_specialist(folder: Path, base: Base, *, seed: int, name: str, **card: Any) -> Path:
    """What a training hands to the library."""
    random = np.random.default_rng(seed)
    config = AdapterConfig(4, 8, ("q_proj", "v_proj"))
    tensors = {}
    for layer in range(base.shape.num_layers):
        for module in ("q_proj", "v_proj"):
            inputs, outputs = base.shape.modules[module]
            a_RI = random.normal(size=(4, inputs)).astype(np.float32) * inputs**-0.5
            tensors[layer, module] = (a_RI, random.normal(size=(outputs, 4)).astype(np.float32))
    write_adapter(folder, AdapterWeights("", config, tensors), base_name="tiny")
    said = {"name": name, "digest": adapter_digest(folder), "base": base.digest, "base_name": "tiny", "purpose": name}
    (folder / "specialist.json").write_text(Card.model_validate({**said, **card}).to_json())
    return folder


def with_evidence(staged: Path, answers: Mapping[str, str]) -> Path:
    """What a training hands to the library, with held-out rows: what is asked, and what should come."""
    rows = tuple(Row((Message("user", asked),), said) for asked, said in answers.items())
    made = write_evidence(staged, Exam(Task(staged.name, rows)), ())
    card = staged / "specialist.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"evidence": made.model_dump(mode="json")}))
    return staged


def stage_activated(folder: Path, base: Base, *, seed: int, name: str, text: str) -> Path:
    """The same, acting only from `text` in a prompt on."""
    stage_specialist(folder, base, seed=seed, name=name)
    invocation = tuple(base.tokenizer.encode(text))
    config = json.loads((folder / "adapter_config.json").read_text()) | {"alora_invocation_tokens": list(invocation)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    card = Card.read(folder).model_copy(update={"digest": adapter_digest(folder), "invocation": invocation})
    (folder / "specialist.json").write_text(card.to_json())
    return folder


def tiny_network(home: Path, *, engine: dict[str, Any] | None = None, **settings: Any) -> Network:
    """Two specialists: clerk, and judge, who answers yes or no."""
    home.mkdir(parents=True, exist_ok=True)
    source = home / "base"
    source.touch()
    base, library = tiny_base(source), Library(home / "library")
    examples = {"clerk": ("file this paper", "where is the form"), "judge": ("is this fair", "who is right")}
    for seed, name in enumerate(examples):
        if name not in library:
            output = {"kind": "choices", "source": '["yes", "no"]'} if name == "judge" else None
            made = stage_specialist(
                home / f"staged-{name}", base, seed=seed, name=name, output=output, examples=examples[name]
            )
            library.publish(made, name=name, replace=False)
    shape = base.shape
    running = Engine(
        base.decoder,
        base.tokenizer,
        lambda digest: library.load(digest, shape),
        EngineSettings(**{"threads": 1, "kv_tokens": 16_384} | (engine or {})),
    )
    chosen = Settings(library=home / "library", cache=home / "cache", starter=False, **{"max_tokens": 16} | settings)
    return Network(base, library, running, chosen, lambda _what, _done: None)


@dataclass(frozen=True)
class Running:
    """A server that listens, and what it stands on."""

    url: str
    network: Network
    server: Server
    listener: Listener


@contextmanager
def served(
    network: Network,
    *,
    key: str | None = None,
    keys: Path | None = None,
    records: Path | None = None,
    offers: Offers = Offers(),
    around: Callable[[ASGIApp], ASGIApp] | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """`around` stands between what listens and the server."""
    store = Store(records)
    chosen = ServeSettings(**{"port": 0, "drain": 5} | settings)
    backend = ServedNetwork(network, offers, network.settings.cache / "teams")
    server = Server(backend, chosen, Keyring(key, keys), store, network.settings.cache / "uploads")
    if around is not None:
        server.app = around(server.app)
    address: list[str] = []
    listening = threading.Event()

    def told(where: str) -> None:
        address.append(where)
        listening.set()

    listener = Listener(server, chosen, told)
    thread = threading.Thread(target=listener.run, daemon=True)
    thread.start()
    assert listening.wait(120)
    try:
        yield Running(address[0], network, server, listener)
    finally:
        listener.drain()
        thread.join()
        store.close()
