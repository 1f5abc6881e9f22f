"""Our engine and one behind HTTP, which is our own server with the same base: what they say has to be the same."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from plural.engine.request import Request
from plural.errors import (
    BaseModelError,
    DeadlineError,
    EngineLost,
    GrammarError,
    MachineError,
    PluralError,
    PoolError,
    PromptError,
    SettingsError,
    SpecialistError,
)
from plural.remote import EngineAddress, RemoteEngine, read_address
from plural.remote.asking import structured
from plural.specialists import invoked_at
from plural.types import AdapterRef, Grammar, Sampling, TokenEvent
from plural.wiring.engines import LibraryShelf, adapter_store
from plural.wiring.network import Network
from tests.remote.pretender import END, VLLM, Pretender, chunks
from tests.serve.tiny import Running, served, stage_activated, stage_specialist, tiny_network

PROMPTS = ("Who is there?", "Count to ten, slowly.", "The cat sat on the mat because")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    network = tiny_network(tmp_path_factory.mktemp("home"))
    with served(network) as running:
        yield running
    network.close()


def remote(running: Running, *, slots: int | None = None, **address: Any) -> RemoteEngine:
    """Another process's engine on the server's base and library; it reads for the router with the server's."""
    network = running.network
    shelf = LibraryShelf(network.base_model, network.library, adapter_store(network.settings))
    where = EngineAddress(running.url, slots=slots, **{"patience": 5.0} | address)
    return RemoteEngine(where, network.base_model, shelf, lambda: network.engine)


@pytest.fixture(scope="module")
def engine(running: Running) -> Iterator[RemoteEngine]:
    made = remote(running, slots=2)
    yield made
    made.check()
    made.close()


@pytest.fixture(scope="module")
def away(running: Running, engine: RemoteEngine) -> Network:
    """The server's network, but for its engine."""
    local = running.network
    return Network(local.base_model, local.library, engine, local.settings, lambda _what, _done: None)


def prompt(running: Running, text: str) -> tuple[int, ...]:
    return tuple(running.network.base_model.tokenizer.encode(text))


def refs(network: Network) -> list[AdapterRef | None]:
    return [None, *(AdapterRef(one.digest) for one in network.library)]


async def drawn(engine: Any, request: Request) -> list[TokenEvent]:
    return [event async for event in engine.generate(request)]


def same(mine: list[TokenEvent], theirs: list[TokenEvent]) -> bool:
    """All but how much was found in the cache."""
    assert [event.logprob for event in mine] == pytest.approx([event.logprob for event in theirs], abs=1e-4)
    for one, other in zip(mine, theirs, strict=True):
        assert [token for token, _ in one.top_logprobs] == [token for token, _ in other.top_logprobs]

    def rest(events: list[TokenEvent]) -> list[Any]:
        made = [dataclasses.replace(event, logprob=0.0, top_logprobs=()) for event in events]
        usage = made[-1].usage
        assert usage is not None
        return [*made[:-1], dataclasses.replace(made[-1], usage=dataclasses.replace(usage, cached=0))]

    return rest(mine) == rest(theirs)


# ------------------------------------------------------------------------------------------------------------- the same
async def test_tokens_are_the_same_for_base_and_adapters(running: Running, engine: RemoteEngine) -> None:
    for text in PROMPTS:
        for ref in refs(running.network):
            request = Request(prompt(running, text), Sampling(max_tokens=12, logprobs=3), ref)
            assert same(await drawn(running.network.engine, request), await drawn(engine, request))


@given(
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.6]),
    top_k=st.sampled_from([0, 5]),
    min_p=st.sampled_from([0.0, 0.05]),
    penalty=st.sampled_from([0.0, 0.5]),
    repetition=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**31),
    stop=st.sampled_from([(), ("e",), ("ab", "zz")]),
    ignore_eos=st.booleans(),
    logprobs=st.integers(0, 3),
)
@settings(max_examples=10)
def test_every_way_of_drawing_is_the_same(running: Running, engine: RemoteEngine, **said: Any) -> None:
    penalty = said.pop("penalty")
    sampling = Sampling(
        max_tokens=8,
        presence_penalty=penalty,
        frequency_penalty=penalty,
        repetition_penalty=said.pop("repetition"),
        **said,
    )

    async def both() -> None:
        request = Request(prompt(running, PROMPTS[0]), sampling)
        assert same(await drawn(running.network.engine, request), await drawn(engine, request))

    asyncio.run(both())


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}),
        Grammar.regex("[ab]{3,5}"),
        Grammar.choices(["yes", "no", "perhaps"]),
        Grammar("lark", 'start: "x" /[0-9]{2}/'),
    ],
    ids=lambda grammar: grammar.kind,
)
async def test_grammars_hold(running: Running, engine: RemoteEngine, grammar: Grammar) -> None:
    request = Request(prompt(running, PROMPTS[1]), Sampling(max_tokens=30), None, grammar)
    mine, theirs = await drawn(running.network.engine, request), await drawn(engine, request)
    assert "".join(event.text for event in mine) == "".join(event.text for event in theirs)
    assert mine[-1].finish == theirs[-1].finish == "stop"


async def test_samples_have_their_own_seeds(running: Running, engine: RemoteEngine) -> None:
    request = Request(prompt(running, PROMPTS[2]), Sampling(max_tokens=8, temperature=1.0, seed=7))

    async def said(engine: Any) -> list[list[int]]:
        ids: list[list[int]] = [[], [], []]
        async for which, event in engine.samples(request, 3):
            ids[which].append(event.token_id)
        return ids

    mine = await said(running.network.engine)
    assert mine == await said(engine)
    assert len({tuple(one) for one in mine}) == 3


async def test_choices_have_exact_probabilities(running: Running, engine: RemoteEngine) -> None:
    for ref in refs(running.network):
        asked = prompt(running, PROMPTS[0]), ["yes", "no", "perhaps, if it rains"], ref
        mine, theirs = await running.network.engine.choose(*asked), await engine.choose(*asked)
        assert (theirs.value, theirs.by) == (mine.value, "logits")
        for one, other in zip(mine.options, theirs.options, strict=True):
            assert other.value == one.value
            assert other.probability == pytest.approx(one.probability, rel=1e-4)


async def test_the_network_on_top_is_the_same(running: Running, away: Network) -> None:
    here = running.network
    for request in ("file this paper", "is this fair"):
        mine, theirs = await here.aask(request), await away.aask(request)
        assert mine == theirs
        assert mine.usage.completion == theirs.usage.completion
    chat = away.specialist("judge")
    assert (await chat.ainvoke([HumanMessage("fair?")])).content in ("yes", "no")
    decision = await chat.achoose([HumanMessage("fair?")], ["yes", "no"])
    assert decision.value == (await here.specialist("judge").achoose([HumanMessage("fair?")], ["yes", "no"])).value


async def test_a_mixture_becomes_one_adapter(running: Running, away: Network) -> None:
    weights = {"clerk": 0.7, "judge": -0.4}
    asked = [HumanMessage("Who files what?")]
    mine = await running.network.mixture(weights).ainvoke(asked, temperature=0.0, logprobs=1)
    theirs = await away.mixture(weights).ainvoke(asked, temperature=0.0, logprobs=1)
    assert mine.content == theirs.content
    logprobs = [message.response_metadata["logprob"] for message in (mine, theirs)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-3)


# ------------------------------------------------------------------------------------------------------------ adapters
def more_specialists(running: Running, count: int) -> list[AdapterRef]:
    network, made = running.network, []
    for seed in range(count):
        folder = network.settings.cache / f"more-{seed}"
        name = f"more-{seed}"
        if name not in network.library:
            stage_specialist(folder, network.base_model, seed=100 + seed, name=name)
            network.library.publish(folder, name=name, replace=False)
        made.append(AdapterRef(network.library.get(name).digest))
    return made


async def test_never_more_adapters_than_slots_and_the_oldest_goes(running: Running) -> None:
    engine = remote(running, slots=3)
    more = more_specialists(running, 5)

    def on_server() -> set[str]:
        return {f"sha256:{name}" for name in running.network.library.lent}

    try:
        for ref in (more[0], more[1], more[2], more[0], more[3]):
            await drawn(engine, Request(prompt(running, "Hm"), Sampling(max_tokens=1), ref))
            assert len(engine.stats().adapters) <= 3
        assert set(engine.stats().adapters) == {more[2].digest, more[0].digest, more[3].digest} == on_server()
        # Twenty at once on three slots: everybody gets a turn, and no answer is another adapter's.
        requests = [Request(prompt(running, f"Hm {n}"), Sampling(max_tokens=4), more[n % 5]) for n in range(20)]
        theirs = await asyncio.gather(*(drawn(engine, request) for request in requests))
        assert len(on_server()) <= 3
        for request, one in zip(requests, theirs, strict=True):
            assert same(await drawn(running.network.engine, request), one)
        engine.pin(more[0].digest)
        engine.pin(more[1].digest)
        with pytest.raises(PoolError, match="2 of the engine's 3 slots are pinned"):
            engine.pin(more[2].digest)
        for ref in more[2:]:
            await drawn(engine, Request(prompt(running, "Hm"), Sampling(max_tokens=1), ref))
        assert {more[0].digest, more[1].digest} < set(engine.stats().adapters)
        engine.unpin(more[0].digest)
        engine.check()
    finally:
        engine.close()


async def test_a_changed_specialist_is_never_served_under_the_old_name(running: Running, away: Network) -> None:
    network = running.network
    before = network.library.get("clerk")
    asked = Request(prompt(running, PROMPTS[0]), Sampling(max_tokens=8), AdapterRef(before.digest))
    first = await drawn(away.engine, asked)
    folder = network.settings.cache / "changed"
    stage_specialist(folder, network.base_model, seed=77, name="clerk")
    after = network.library.publish(folder, name="clerk", replace=True)
    assert after.digest != before.digest
    try:
        new = dataclasses.replace(asked, adapter=AdapterRef(after.digest))
        assert same(await drawn(network.engine, new), await drawn(away.engine, new))
        assert same(first, await drawn(away.engine, asked)), "who asked for the old one still gets that"
    finally:
        network.library.rollback("clerk")


async def test_what_the_server_dropped_is_loaded_again(running: Running, engine: RemoteEngine) -> None:
    ref = AdapterRef(running.network.library.get("judge").digest)
    request = Request(prompt(running, PROMPTS[1]), Sampling(max_tokens=3), ref)
    first = await drawn(engine, request)
    loads = engine.loads
    running.network.library.take_back(ref.digest.removeprefix("sha256:"))
    assert same(first, await drawn(engine, request))
    running.network.library.take_back(ref.digest.removeprefix("sha256:"))
    await engine.choose(request.prompt, ["a", "b"], ref)
    assert engine.loads == loads + 2


async def test_another_client_has_loaded_it(running: Running, engine: RemoteEngine) -> None:
    """Its name says what it is, so nobody need load it again."""
    (ref,) = more_specialists(running, 1)
    await drawn(engine, Request(prompt(running, "Hm"), Sampling(max_tokens=1), ref))
    other = remote(running, slots=2)
    try:
        assert ref.digest in other.stats().adapters
        await drawn(other, Request(prompt(running, "Hm"), Sampling(max_tokens=1), ref))
        assert other.loads == 0
    finally:
        other.close()


async def test_an_adapter_that_nobody_has(engine: RemoteEngine) -> None:
    with pytest.raises(SpecialistError, match="has the adapter sha256:00"):
        await drawn(engine, Request((1, 2), Sampling(), AdapterRef("sha256:" + "0" * 64)))


async def test_a_file_changed_in_the_library_is_refused(running: Running, engine: RemoteEngine) -> None:
    network = running.network
    folder = network.settings.cache / "spoiled"
    stage_specialist(folder, network.base_model, seed=55, name="spoiled")
    one = network.library.publish(folder, name="spoiled", replace=False)
    weights = one.path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    try:
        with pytest.raises(SpecialistError, match="but its card is of"):
            await drawn(engine, Request((1, 2), Sampling(), AdapterRef(one.digest)))
    finally:
        network.library.remove("spoiled")


# ------------------------------------------------------------------------------------------------------ what goes wrong
@pytest.fixture
def pretend(running: Running) -> Iterator[Any]:
    made: list[Any] = []

    def start(answers: dict[str, Any], **address: Any) -> tuple[Pretender, RemoteEngine]:
        server = Pretender({"/v1/models": (200, VLLM), **answers})
        made.append(server)
        network = running.network
        shelf = LibraryShelf(network.base_model, network.library, adapter_store(network.settings))
        where = EngineAddress(server.url, **{"patience": 2.0} | address)
        made.append(RemoteEngine(where, network.base_model, shelf, lambda: network.engine))
        return server, made[-1]

    yield start
    for one in reversed(made):
        if isinstance(one, Pretender):
            one.shutdown()
            one.server_close()
        else:
            one.close()


def test_nobody_there(running: Running) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with pytest.raises(MachineError, match=rf"engine at http://127.0.0.1:{free} cannot be reached: .*; tried [3-9]"):
        remote(dataclasses.replace(running, url=f"http://127.0.0.1:{free}"), patience=1.0)


async def test_a_busy_server_is_asked_again(pretend: Any) -> None:
    server, engine = pretend({"/v1/completions": [(503, "busy"), (429, "slow down"), (200, chunks(END))]})
    (event,) = await drawn(engine, Request((1, 2), Sampling(max_tokens=1)))
    assert (event.token_id, event.finish, event.logprob) == (40, "length", -0.5)
    assert len(server.bodies) == 3 + 1  # and once /tokenize


async def test_a_server_that_stays_busy(pretend: Any) -> None:
    _, engine = pretend({"/v1/completions": (503, '{"error": {"message": "The queue is full."}}')}, patience=0.5)
    with pytest.raises(MachineError, match=r"is busy: 503: The queue is full.; tried \d times"):
        await drawn(engine, Request((1, 2), Sampling(max_tokens=1)))


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((500, '{"error": {"message": "Odd"}}'), MachineError, "Odd"),
        ((500, '{"error": {"message": "EngineCore encountered an issue."}}'), EngineLost, "EngineCore"),
        ((401, '{"error": "Unauthorized"}'), SettingsError, "PLURAL_ENGINE_KEY"),
        ((400, '{"error": {"message": "top_k is odd"}}'), SettingsError, "top_k is odd"),
        ((200, chunks('{"error": {"message": "died"}}')), MachineError, "died"),
        ((200, chunks('{"error": {"message": "Odd top_k", "code": 400}}')), SettingsError, "refuses: Odd top_k"),
        ((200, chunks()), MachineError, "did not finish"),
        ((200, "data: " + END + "\n\n"), EngineLost, "before its end"),
        ((200, chunks(END.replace('"token_ids": [40],', ""))), SettingsError, "no token ids"),
        ((200, chunks(END.replace('"length"', '"abort"'))), EngineLost, "'abort'"),
    ],
    ids=[
        "500",
        "dead",
        "401",
        "400",
        "error in the stream",
        "refused in the stream",
        "nothing",
        "cut off",
        "no ids",
        "aborted",
    ],
)
async def test_what_a_server_may_answer(pretend: Any, answer: Any, error: type[PluralError], says: str) -> None:
    _, engine = pretend({"/v1/completions": answer})
    with pytest.raises(error, match=says) as raised:
        await drawn(engine, Request((1, 2), Sampling(max_tokens=1)))
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("health", "error"),
    [((200, ""), None), ((404, "Not Found"), None), ((503, ""), EngineLost), ((500, "broken"), EngineLost)],
)
def test_its_health_is_asked_for_once(pretend: Any, health: Any, error: type[PluralError] | None) -> None:
    """A server without such a page has answered, too."""
    _, engine = pretend({"/health": health})
    if error is None:
        engine.check()
        return
    with pytest.raises(error, match=r"http://127\.0\.0\.1"):
        engine.check()


async def test_a_server_that_has_gone_is_a_lost_engine(pretend: Any) -> None:
    server, engine = pretend({"/v1/completions": (200, chunks(END))}, patience=0.5)
    await drawn(engine, Request((1, 2), Sampling(max_tokens=1)))
    server.shutdown()
    server.server_close()
    with pytest.raises(EngineLost, match=r"cannot be reached: .*; tried 1 times in 0 s"):
        engine.check()
    for asked in (drawn(engine, Request((1, 2), Sampling(max_tokens=1))), engine.score((1, 2))):
        with pytest.raises(EngineLost, match="cannot be reached"):
            await asked


async def test_a_server_refuses_a_rank(running: Running, pretend: Any) -> None:
    said = '{"error": {"message": "Call to add_lora method failed: LoRA rank 4 is greater than max_lora_rank 2."}}'
    _, engine = pretend({"/v1/load_lora_adapter": (500, said)})
    ref = AdapterRef(running.network.library.get("judge").digest)
    for _ in range(2):
        with pytest.raises(SpecialistError, match=r"LoRA rank 4 is greater .* Start it with a higher --max-lora-rank"):
            await drawn(engine, Request((1, 2), Sampling(), ref))
    assert engine.stats().adapters == ()


async def test_a_server_without_adapter_admin(running: Running, pretend: Any) -> None:
    _, engine = pretend({"/v1/load_lora_adapter": (404, '{"detail": "Not Found"}')})
    ref = AdapterRef(running.network.library.get("judge").digest)
    with pytest.raises(SpecialistError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        await drawn(engine, Request((1, 2), Sampling(), ref))


async def test_an_activated_adapter_is_refused_by_name(pretend: Any) -> None:
    _, engine = pretend({})
    with pytest.raises(SpecialistError, match=r"sha256:5 is activated: it acts from token 3 on. vLLM has no such"):
        await drawn(engine, Request((1, 2, 3, 4, 5), Sampling(), AdapterRef("sha256:5", offset=3)))


async def test_what_vllm_is_told(pretend: Any) -> None:
    """Its priorities count the other way; JSON's white space is as in our grammars."""
    server, engine = pretend({"/v1/completions": (200, chunks(END))})
    grammar = Grammar.json_schema({"type": "object"})
    await drawn(engine, Request((1, 2), Sampling(max_tokens=1), None, grammar, priority=3))
    body = json.loads(server.bodies[-1])
    assert body["priority"] == -3
    assert body["structured_outputs"]["json"]["x-guidance"]["whitespace_flexible"] is False
    with pytest.raises(GrammarError, match="is no object"):
        structured(Grammar("json_schema", "true"), vllm=True)


async def test_a_deadline(pretend: Any) -> None:
    _, engine = pretend({"/v1/completions": (503, "busy")})
    with pytest.raises(DeadlineError, match=r"within 0.3 seconds"):
        await drawn(engine, Request((1, 2), Sampling(), deadline=0.3))


def following(values: dict[int, float]) -> str:
    top = ", ".join(f'"token_id:{token}": {value}' for token, value in values.items())
    return f'{{"choices": [{{"index": 0, "text": "", "logprobs": {{"top_logprobs": [{{{top}}}]}}}}]}}'


async def test_vllm_is_asked_how_each_option_goes_on(running: Running, pretend: Any) -> None:
    tokenizer = running.network.base_model.tokenizer
    (yes,), (no,) = tokenizer.encode("y"), tokenizer.encode("n")
    values = {yes: -1.0, no: -2.0, **dict.fromkeys(tokenizer.eos_ids, -3.0)}
    server, engine = pretend({"/v1/completions": (200, following(values))})
    decision = await engine.choose((1, 2), ["y", "n"])
    assert decision.probability == pytest.approx(1 / (1 + np.exp(-1.0)))
    asked = {tuple(body["prompt"]): body["logprob_token_ids"] for body in map(json.loads, server.bodies[1:])}
    ends = sorted(tokenizer.eos_ids)
    assert asked == {(1, 2): sorted((yes, no)), (1, 2, yes): ends, (1, 2, no): ends}


async def test_a_text_is_scored_token_by_token(pretend: Any) -> None:
    """vLLM is asked after each beginning which token goes on from there, and no prompt's log-probabilities."""
    values = {6: -0.6, 7: -0.7, 8: -0.8, 9: -0.9}
    server, engine = pretend({"/v1/completions": (200, following(values))})
    assert await engine.score((5, 6, 7, 8)) == [-0.6, -0.7, -0.8]
    bodies = list(map(json.loads, server.bodies[1:]))
    asked = {tuple(body["prompt"]): body["logprob_token_ids"] for body in bodies}
    assert asked == {(5,): [6], (5, 6): [7], (5, 6, 7): [8]}
    assert not any("prompt_logprobs" in body for body in bodies)
    assert engine.stats().computed == 6


async def test_no_logprobs_no_choices(pretend: Any) -> None:
    _, engine = pretend({"/v1/completions": (200, following({7: -1.0}))})
    with pytest.raises(SettingsError, match="so choices have none"):
        await engine.choose((1, 2), ["a", "b"])
    with pytest.raises(SettingsError, match="so choices have none"):
        await engine.score((1, 2))


def test_another_base(running: Running, pretend: Any) -> None:
    other = dataclasses.replace(running.network.base_model, digest="sha256:" + "c" * 64)
    shelf = LibraryShelf(other, running.network.library, adapter_store(running.network.settings))
    with pytest.raises(BaseModelError, match=r"has another base: tiny \(sha256:bbb"):
        RemoteEngine(EngineAddress(running.url), other, shelf, lambda: running.network.engine)
    with pytest.raises(BaseModelError, match="which reads texts as other tokens"):
        pretend({"/tokenize": (200, '{"tokens": [1, 2, 3]}')})
    with pytest.raises(MachineError, match="is no OpenAI-compatible server"):
        pretend({"/v1/models": (200, '"hello"')})


async def test_prompts_that_cannot_be(engine: RemoteEngine) -> None:
    with pytest.raises(PromptError, match="empty"):
        await drawn(engine, Request((), Sampling()))
    with pytest.raises(PromptError, match="the context has 4096 in all"):
        await drawn(engine, Request((1,) * 4096, Sampling()))
    with pytest.raises(SettingsError, match="a grammar and stop strings"):
        await drawn(engine, Request((1,), Sampling(stop=("x",)), None, Grammar.regex("a")))


async def test_leaving_an_answer_ends_it_on_the_server(running: Running, engine: RemoteEngine) -> None:
    answer = engine.generate(Request(prompt(running, "Hm"), Sampling(max_tokens=4000, ignore_eos=True)))
    await anext(answer)
    await answer.aclose()
    for _ in range(100):
        if not running.network.engine.stats().running:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the server goes on")


@pytest.mark.parametrize("engine", ["llama", "vllm:ftp://x", "vllm:", "vllm:http://a b", "http://x"])
def test_engines_that_there_are_not(engine: str) -> None:
    if engine == "vllm:":
        assert read_address(engine) == EngineAddress()
        return
    with pytest.raises(SettingsError, match="Known: plural, vllm"):
        read_address(engine)


def test_addresses() -> None:
    assert read_address("plural") is None
    assert read_address("vllm:http://h:1/v1/", slots=3) == EngineAddress("http://h:1", None, 3)
    with pytest.raises(SettingsError, match="engine_slots"):
        read_address("plural", slots=3)


def test_the_combined_adapter_is_the_sum(running: Running, tmp_path: Path) -> None:
    from plural.specialists.combining import combined

    network = running.network
    members = [(network.library.load(one.digest, network.base_model.shape), scale) for one, scale in
               zip(network.library, (0.5, -2.0), strict=False)]  # fmt: skip
    made = combined(members)
    for (layer, module), (a, b) in made.tensors.items():
        expected = sum(
            weights.tensors[layer, module][1].astype(np.float32)
            @ weights.tensors[layer, module][0].astype(np.float32)
            * (scale * weights.config.scale_of(layer, module))
            for weights, scale in members
        )  # fmt: skip
        np.testing.assert_allclose(made.config.scale_of(layer, module) * (b @ a), expected, rtol=1e-4, atol=1e-5)


async def test_an_activated_adapter_acts_from_its_invocation_on(running: Running, engine: RemoteEngine) -> None:
    """Our own server has such adapters, so they are served there as they are here."""
    network = running.network
    base = network.base_model
    folder = stage_activated(network.settings.cache / "activated", base, seed=9, name="activated", text="??")
    card = network.library.publish(folder, name="activated", replace=False).card
    asked = prompt(running, "Is this a question?? Well, say something.")
    at = invoked_at(asked, card.invocation)
    assert at
    request = Request(asked, Sampling(max_tokens=8, logprobs=2), AdapterRef(card.digest, offset=at))
    theirs = await drawn(engine, request)
    assert same(await drawn(network.engine, request), theirs)
    plain = await drawn(network.engine, dataclasses.replace(request, adapter=None))
    assert [event.logprob for event in plain] != pytest.approx([event.logprob for event in theirs], abs=1e-3)
