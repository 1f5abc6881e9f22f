"""What the router has read is not read again: who answers goes on at its last token. Counted, and equal to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plural.engine import Engine, Request
from plural.engine.chat import ChatPlural
from plural.engine.reading import RequestReader
from plural.errors import SettingsError
from plural.types import AdapterRef, Sampling

from .tiny import CONFIG, Shelf, bit_equal, collect, drawn, drive, tiny_adapter, tiny_base, tiny_engine

TOKENS = 4
TASK = "Turn off the lights in the kitchen, please, and then the ones in the hall."


@pytest.fixture
def model() -> Iterator[ChatPlural]:
    shelf = Shelf()
    for seed in (1, 2):
        shelf.put(tiny_adapter(seed))
    small = tiny_base(replace(CONFIG, max_positions=1024))
    engine = Engine(small.decoder, small.tokenizer, shelf)
    yield ChatPlural(
        engine=engine, base=small, model_name="tiny", sampling=Sampling(max_tokens=TOKENS, ignore_eos=True)
    )
    engine.check()
    engine.close()


def activated(model: ChatPlural, seed: int) -> ChatPlural:
    digest = tiny_adapter(seed).digest
    return model.model_copy(
        update={"adapter": AdapterRef(digest), "invocations": {digest: model.base.chat.invocation()}}
    )


async def test_who_answers_goes_on_where_the_request_was_read(model: ChatPlural) -> None:
    reader, chat = RequestReader(model.engine, model.base), model.base.chat
    await reader.aembed([TASK])
    read = len(reader.prompt(TASK))
    assert model.engine.stats().computed == read
    assert read % model.engine.settings.page_size, "it ends within a page, or the test shows nothing"
    own = len(chat.invocation()) + TOKENS - 1  # nobody reads the last token drawn
    for number, one in enumerate((model, activated(model, 1), activated(model, 2)), start=1):
        said = await one.ainvoke(TASK)
        assert said.usage_metadata is not None
        assert said.usage_metadata["input_token_details"]["cache_read"] == read
        assert model.engine.stats().computed == read + number * own
    alone = tiny_engine(decoder=model.base.decoder)
    unread = model.model_copy(update={"engine": alone})
    assert (await unread.ainvoke(TASK)).text == (await model.ainvoke(TASK)).text
    alone.close()


async def test_the_template_is_read_once_for_all_requests(model: ChatPlural) -> None:
    reader = RequestReader(model.engine, model.base)
    await reader.aembed([TASK])
    before = model.engine.stats().computed
    await reader.aembed(["Good morning"])
    assert (
        model.engine.stats().computed - before == len("Good morning") + len(reader.prompt("a")) - _template(reader) - 1
    )


def alike(found: object, wanted: object) -> bool:
    return np.allclose(found, wanted, atol=1e-6)  # type: ignore[arg-type]


def _template(reader: RequestReader) -> int:
    return next(at for at, (a, b) in enumerate(zip(reader.prompt("a"), reader.prompt("b"), strict=True)) if a != b)


async def test_what_was_read_before_changes_no_vector(model: ChatPlural) -> None:
    texts = [TASK, TASK[:40], TASK + " Thanks."]
    reader = RequestReader(model.engine, model.base)
    first = await reader.aembed(texts)
    assert alike(await reader.aembed(texts), first)
    assert alike([vector for text in texts for vector in await reader.aembed([text])], first)


async def test_an_adapter_that_acts_from_the_start_reads_for_itself(model: ChatPlural) -> None:
    await RequestReader(model.engine, model.base).aembed([TASK])
    plain = model.model_copy(update={"adapter": AdapterRef(tiny_adapter(1).digest)})
    said = await plain.ainvoke(TASK)
    assert said.usage_metadata is not None
    assert said.usage_metadata["input_token_details"]["cache_read"] == 0


async def test_a_start_behind_the_prompt_is_refused(model: ChatPlural) -> None:
    with pytest.raises(SettingsError, match="start is 3"):
        await model.engine.embed([[1, 2, 3]], start=3)


@bit_equal
@settings(max_examples=15)
@given(
    cuts=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 30), st.booleans()), min_size=2, max_size=6),
    pages=st.sampled_from([12, 24]),
)
async def test_readings_and_answers_in_any_mix_are_as_if_alone(cuts: list[tuple[int, int, bool]], pages: int) -> None:
    """Prompts that begin alike, read or answered, in a pool where some have to give way."""
    tokens = [(5 * at + at // 7) % 256 for at in range(100)]
    engine = tiny_engine(start=False, kv_tokens=16 * pages, max_running=3)
    alone = tiny_engine(start=False, prefix_cache=False)

    def work(which: object, cut: tuple[int, int, bool]):  # type: ignore[no-untyped-def]
        length, start, reads = cut
        prompt = tuple(tokens[: length + start])
        if reads:
            return which.embed([prompt], start=start)  # type: ignore[attr-defined]
        return collect(which, Request(prompt, Sampling(max_tokens=3, ignore_eos=True)))  # type: ignore[arg-type]

    together = await drive(engine, *(work(engine, cut) for cut in cuts))
    again = await drive(engine, *(work(engine, cut) for cut in cuts))
    engine.check()
    for found, repeated, cut in zip(together, again, cuts, strict=True):
        [wanted] = await drive(alone, work(alone, cut))
        if cut[2]:
            assert alike(found, wanted)
            assert alike(repeated, wanted)
        else:
            assert drawn(found) == drawn(wanted) == drawn(repeated)  # type: ignore[arg-type]
