"""The benchmarks on a tiny base: that they run and count rightly. How fast anything is, is not asked here."""

import argparse
import ast
import importlib.util
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from plural.models.base import load_base
from plural.models.export import write_huggingface
from plural.specialists.peft_files import read_adapter
from plural.testing import ScriptedModel, calling
from plural.types import Decision, Option
from tests.models import tiny

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark as its own directory would."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return pytest.importorskip


@pytest.fixture
def base(tmp_path):
    tiny.save(tmp_path / "base")
    return load_base(tmp_path / "base")


@pytest.fixture
def run(monkeypatch, script, base, capsys):
    """Runs a benchmark's main on the tiny base and returns its last line."""

    def run(name, *options):
        module = script(name)
        if hasattr(module, "load_base"):
            monkeypatch.setattr(module, "load_base", lambda: base)
        monkeypatch.setattr("sys.argv", [name, *options])
        module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_slora_draws_what_its_code_draws(script):
    calls = script("workload").slora_calls(
        adapters=5, rate=2.0, duration=10, alpha=0.3, cv=4, inputs=(8, 32), outputs=(4, 16), vocabulary=300
    )
    np.random.seed(42)
    chosen = (np.random.power(0.3, 20) * 5).astype(int)
    inputs, outputs = np.random.randint(8, 32, 20), np.random.randint(4, 16, 20)
    intervals = np.random.gamma(1 / 16, 16 / 2.0, 20)
    assert [call.adapter for call in calls] == [str(one) for one in chosen]
    assert [len(call.prompt) for call in calls] == list(inputs)
    assert [call.tokens for call in calls] == list(outputs)
    assert [call.at for call in calls] == pytest.approx(np.cumsum(intervals))


def test_metrics_count_the_aborted_as_failures(script):
    workload = script("workload")
    firsts = {"a": [1.0, 3.0], "b": [7.0, None]}
    outcomes = [
        workload.Outcome(workload.Call((1,), 1, adapter), first, 9.0)
        for adapter, each in firsts.items()
        for first in each
    ]
    found = workload.measure(outcomes, 30.0, rate=0.1, slo=6.0, strip=10.0)
    assert (found.requests, found.finished, found.throughput) == (4, 3, 0.1)
    assert found.strip_throughput == pytest.approx((3 - 2 * 10 * 0.1) / 10)
    assert (found.attainment, found.worst_adapter) == (0.5, 0.0)
    assert found.satisfaction == pytest.approx(((1 - 1 / 36) + (1 - 9 / 36)) / 4)


def test_other_engines_get_our_weights(base, tmp_path):
    write_huggingface(base, tmp_path / "again")
    again = load_base(tmp_path / "again")
    assert replace(again.config, rope_scaling={}) == replace(base.config, rope_scaling={})
    for mine, theirs in zip(base.decoder.weights.layers, again.decoder.weights.layers, strict=True):
        assert torch.equal(mine.qkv_OI, theirs.qkv_OI)
        assert torch.equal(mine.down_OI, theirs.down_OI)
    assert torch.equal(base.decoder.weights.embed_VH, again.decoder.weights.embed_VH)
    assert again.tokenizer.encode("Hello 42") == base.tokenizer.encode("Hello 42")


def test_llamacpp_gets_our_adapters(script, base, tmp_path):
    from gguf import GGUFReader

    adapter = script("adapters").random_adapter(base.config, 3, 4)
    reader = GGUFReader(script("export").write_lora_gguf(base, adapter, tmp_path / "lora.gguf"))
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert reader.fields["adapter.lora.alpha"].contents() == 4.0
    a_RI, b_OR = adapter.tensors[1, "q_proj"]
    assert np.array_equal(found["blk.1.attn_q.weight.lora_a"], a_RI)
    # llama.cpp rotates neighbouring rows: row 0 and 1 are the first of each half of the head.
    half = base.config.head_dim // 2
    assert np.array_equal(found["blk.1.attn_q.weight.lora_b"][:2], b_OR[[0, half]])
    assert np.array_equal(found["blk.0.ffn_down.weight.lora_b"], adapter.tensors[0, "down_proj"][1])


def test_a_shelf_reads_few_files_under_many_digests(script, base, tmp_path):
    adapters = script("adapters")
    paths = adapters.write_adapters(base, tmp_path, 2, 4, 0.01)
    shelf = adapters.Shelf(base, paths)
    held = read_adapter(paths[1], base.shape).tensors[0, "q_proj"][0]
    assert np.array_equal(shelf("7").tensors[0, "q_proj"][0], held)
    assert (shelf("7").digest, shelf.reads) == ("7", 2)
    assert np.array_equal(held, adapters.random_adapter(base.config, 1, 4).tensors[0, "q_proj"][0])


def test_tax(run):
    said = run("tax", "--rounds", "1", "--tokens", "4", "--context", "8", "--rank", "4", "--dtype", "fp32")
    assert list(said["ms"]["fp32"]) == ["base", "loaded", "K = 1", "K = 8"]


def test_overload(run):
    sizes = ("--duration", "1", "--inputs", "2", "6", "--outputs", "2", "4", "--rank", "4", "--dtype", "fp32")
    said = run("overload", *sizes, "--specialists", "2", "--cv", "1")
    served = said["results"]["cv 1, in order"]
    assert served["finished"] == served["requests"] == int(said["rate"] * 1)


def test_slora_serves_every_adapter_from_disk(monkeypatch, script, base):
    slora = script("slora")
    monkeypatch.setattr(slora, "load_base", lambda: base)
    sizes = ["--rate", "40", "--duration", "1", "--inputs", "2", "6", "--outputs", "2", "4", "--rank", "4"]
    monkeypatch.setattr("sys.argv", ["slora", *sizes, "--files", "2", "--dtype", "fp32"])
    given = slora._options()
    assert isinstance(given, argparse.Namespace)
    said = slora.serve(given, 20)
    assert said["service"]["finished"] == 40
    assert said["reads"] >= 15
    assert not math.isnan(said["service"]["latency"])
    assert slora.serve(given, 0)["capacity"] > 0


def test_calibration_asks_for_what_is_easily_mistaken(script):
    rows = [{"prompt": f"question {n}", "answer": answer} for n, answer in enumerate(["aa", "ab", "zz", "aa"])]
    asked = script("calibration").questions(rows, 2)
    assert asked == [("question 0", ["aa", "ab", "zz"]), ("question 2", ["zz", "aa", "ab"])]


def test_calibration_decides_among_calls_too(script):
    call = {"name": "calculate", "arguments": {"expression": "1 + 1"}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    rows = [{"messages": [{"role": "user", "content": "1 and 1?"}, said]}, {"prompt": "?", "answer": "none"}]
    written = '<tool_call>[{"name": "calculate", "arguments": {"expression": "1 + 1"}}]</tool_call>'
    assert script("calibration").questions(rows, 1) == [("1 and 1?", [written, "none"])]


def test_calibration_scales_each_half_by_the_other(script):
    sure = Decision("a", 0.9, (Option("a", 0.9), Option("b", 0.1)))
    found = script("calibration").measured([sure] * 8, ["a", "a", "b", "b"] * 2)
    assert (found["rows"], found["right"], found["said"]) == (8, 0.5, pytest.approx(0.9))
    assert found["ece"] == pytest.approx(0.4)
    assert found["temperature"] > 50  # half of them right: as good as a coin
    assert found["ece_scaled"] < 0.02


def test_the_loop_is_timed_beside_calls_made_by_hand(run):
    found = run("loop", "--steps", "2", "--rounds", "1", "--at-once", "1", "2")
    assert found["ms_a_step"].keys() == {"by hand", "loop", "loop, two middlewares"}
    assert all(times.keys() == {"1", "2"} for times in found["ms_a_step"].values())
    for at_once, own in found["own_ms_a_step"].items():
        assert own == pytest.approx(found["ms_a_step"]["loop"][at_once] - found["ms_a_step"]["by hand"][at_once])


def test_recall_ranks_every_fact(run):
    found = run("recall")
    assert found["pairs"] == 40
    assert found["share"].keys() == {"hidden states", "standardised", "words"}
    assert all(0 <= first <= third <= fifth <= 1 for first, third, fifth in found["share"].values())
    assert found["share"]["words"][0] > 1 / 40  # by chance


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """What `Network.open` opens: a tiny base with room for long prompts."""
    tiny.save(tmp_path / "wide", max_position_embeddings=8192)
    for name in ("base", "cache", "library"):
        monkeypatch.setenv(f"PLURAL_{name.upper()}", str(tmp_path / ("wide" if name == "base" else name)))


@pytest.mark.usefixtures("opened")
def test_bfcl_is_asked_in_every_way(run, tmp_path):
    pytest.importorskip("bfcl_eval")
    few = ["--rows", "2", "--categories", "simple_python", "irrelevance", "--specialists"]
    found = run("bfcl", *few, "--answers", str(tmp_path / "answers.jsonl"))["results"]
    simple, none = ([f"{name}, base, {way}" for way in ("free", "auto", "required")] for name in few[3:5])
    assert list(found) == [*simple, *none[:2]]
    assert all(each["rows"] == 2 for each in found.values())
    assert found["simple_python, base, free"]["right"] == 0
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    for name, each in found.items():
        own = [one for one in kept if f"{one['category']}, {one['who']}, {one['way']}" == name]
        assert each["called"] == sum(bool(one["calls"]) for one in own) / 2
        assert each["right"] == sum(one["right"] for one in own) / 2
    assert all(one["right"] == (not one["calls"]) for one in kept if one["category"] == "irrelevance")


@pytest.mark.usefixtures("opened")
def test_games_are_played_by_everybody_on_the_same_seeds(run, tmp_path):
    if importlib.util.find_spec("textworld_express") is None or shutil.which("java") is None:
        pytest.skip("textworld-express or Java is not installed")
    few = ["--games", "sorting", "--episodes", "2", "--steps", "3", "--library", str(tmp_path / "none")]
    found = run("textworld", *few)["results"]
    assert list(found) == ["sorting, chance", "sorting, base"]
    for each in found.values():
        assert each["games"] == 2
        assert 0 < each["moves"] <= 3
        assert each["options"] > 1
        assert 0 < each["probability"] <= 1


def test_imports_are_added_up_by_package(script):
    said = "import time: self [us] | cumulative | imported package\nimport time:  2000 |  9000 |   torch.nn\n"
    found = script("coldstart").import_times(said + "import time:  1000 |  1000 | torch\nimport time: 5 | 5 | re\n")
    assert found == pytest.approx({"torch": 0.003, "re": 0.000005})


def test_the_wire_gives_the_same_tokens(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PLURAL_CACHE", str(tmp_path / "cache"))
    few = ["--requests", "3", "--tokens", "4", "4", "--inputs", "2", "6", "--streams", "2", "--rounds", "1"]
    found = run("wire", *few)
    assert [len(rates) for rates in found["rates"].values()] == [1, 1]
    assert found["ratios"] == [pytest.approx(found["rates"]["http"][0] / found["rates"]["in process"][0])]


def test_training_counts_the_tokens_of_both_sides(run):
    few = ["--steps", "3", "--rank", "2", "--batch", "2", "--tokens", "60", "--answer", "10"]
    found = run("training", *few, "--specialists", "2", "--lengths", "52", "--rows", "1")["tokens_per_second"]
    assert found["peers"].keys() == {"plain", "activated"}
    assert found["school"].keys() == {"52 tokens, 1 rows"}
    for each in (*found["peers"].values(), *found["school"].values()):
        assert all(figure > 0 for figure in each.values())
    for each in found["peers"].values():
        assert each["ratio"] == pytest.approx(each["ours"] / each["peft"])
    (each,) = found["school"].values()
    assert each["ratio"] == pytest.approx(each["together"] / each["one after another"])


def test_grammars_are_timed_beside_free_decode_of_as_many_tokens(run):
    found = run("grammar", "--streams", "2", "--rounds", "1")["results"]
    kinds = [name.rpartition(", ")[2] for name in found if "decisions" not in name]
    assert kinds == ["schema", "free", "every", "drawn", "free drawn"] * 3
    for name in ("few values", "texts", "tool call"):
        free, every, schema = (found[f"2 streams, {name}, {kind}"] for kind in ("free", "every", "schema"))
        assert free["tokens"] == schema["tokens"]
        assert schema["steps"] < every["steps"]  # forced tokens take no step each
        assert every["parts_us_a_token"]["allowed"] > 0
        assert free["parts_us_a_token"]["allowed"] == 0
        assert found[f"2 streams, {name}, drawn"]["tokens"] == found[f"2 streams, {name}, free drawn"]["tokens"]
    assert found["2 decisions"]["steps"] > 0


@pytest.fixture
def conversations(script, monkeypatch):
    """The benchmark of several turns, with BFCL's checker."""
    for package in ("bfcl_eval", "mpmath"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(FOLDER.parent / "recipes" / "starter"))
    script("toolcall").stub_models()
    return script("bfcl_multi_turn")


async def test_the_reference_passes_through_the_agents_loop(conversations):
    row = next(row for row in conversations.episodes(None) if row["id"] == "multi_turn_base_1")
    replies = []
    for turn in row["truth"]:
        parsed = [ast.parse(call, mode="eval").body for call in turn]
        calls = [(one.func.id, {each.arg: ast.literal_eval(each.value) for each in one.keywords}) for one in parsed]
        replies += [*(calling(call) for call in calls), "Done."]
    right = await conversations.played(row, "reference", ScriptedModel(replies), steps=8)
    assert [[call for step in turn for call in step] for turn in right.calls] == [
        [call.replace(",", ", ") for call in turn] for turn in row["truth"]
    ]
    assert conversations.judged(right, "reference") == (True, 4, "")
    idle = await conversations.played(row, "idle", ScriptedModel(["I cannot."] * 4), steps=8)
    assert conversations.judged(idle, "idle") == (False, 0, "multi_turn:empty_turn_model_response")


@pytest.mark.slow
def test_a_group_chat_of_activated_members_computes_four_times_fewer_tokens(tmp_path, script):
    """Eight members, 40 turns: the same count on any base, but for how its tokenizer cuts the text."""
    groupchat, adapters = script("groupchat"), script("adapters")
    tiny.save(tmp_path / "base", max_position_embeddings=8192)
    base = load_base(tmp_path / "base")
    eight = [adapters.random_adapter(base.config, seed, 4) for seed in range(8)]
    plain, activated = (groupchat.chat(base, eight, 40, 96, activated=kind) for kind in (False, True))
    print(plain, activated)
    assert plain["written"] == activated["written"] == 40 * 96
    assert 4 * activated["computed"] < plain["computed"]
