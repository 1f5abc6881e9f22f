"""Files and trainings over the wire: real ones, of a tiny base."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from plural.train import TrainSettings
from tests.serve.tiny import Running, served, tiny_network

ROWS = [{"prompt": f"{n} and {n % 7}?", "answer": f"sum {n + n % 7}."} for n in range(40)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    network = tiny_network(tmp_path / "home", max_tokens=8)
    with served(network, records=tmp_path / "records.sqlite") as running:
        yield running
    network.engine.check()
    network.close()


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def upload(client: Any, rows: list[dict[str, str]], name: str = "rows.jsonl") -> Any:
    content = "\n".join(map(json.dumps, rows)).encode()
    return client.files.create(file=(name, io.BytesIO(content)), purpose="fine-tune")


def ended(client: Any, job: Any) -> Any:
    for _ in range(2400):
        found = client.fine_tuning.jobs.retrieve(job.id)
        if found.status in ("succeeded", "failed", "cancelled"):
            return found
        time.sleep(0.025)
    raise AssertionError(f"the job did not end: {found}")


def test_a_trained_specialist_is_served_at_once(client: Any, running: Running) -> None:
    file = upload(client, ROWS)
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=file.id,
        suffix="adder",
        seed=3,
        hyperparameters={"n_epochs": 1, "batch_size": 16},
        metadata={"for": "test"},
        extra_body={"purpose": "Adds small numbers."},
    )
    assert job.status == "queued"
    assert job.hyperparameters.n_epochs == 1
    done = ended(client, job)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model == "adder"
    assert done.trained_tokens > 0
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=7))
    assert "completed" in events[0].message
    assert "Created" in events[-1].message
    assert any(event.type == "metrics" and "loss" in event.data for event in events)
    assert len({event.id for event in events}) == len(events)
    answer = client.chat.completions.create(model="adder", messages=[{"role": "user", "content": "3 and 3?"}])
    assert answer.model == "adder"
    card = running.network.library.get("adder").card
    assert card.purpose == "Adds small numbers."
    assert card.lineage.settings["epochs"] == 1
    assert card.lineage.seed == 3
    assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
    assert [one.id for one in client.fine_tuning.jobs.list(metadata={"for": "test"})] == [job.id]
    assert list(client.fine_tuning.jobs.list(metadata={"for": "another"})) == []
    with pytest.raises(openai.ConflictError, match="taken"):
        client.fine_tuning.jobs.create(model="base", training_file=file.id, suffix="adder")


def test_a_job_that_cannot_be_done_says_why(client: Any, running: Running) -> None:
    file = upload(client, [*ROWS, {"prompt": "no answer"}])
    done = ended(client, client.fine_tuning.jobs.create(model="base", training_file=file.id, suffix="bad"))
    assert done.status == "failed"
    assert done.error.code == "DataError"
    assert "line 41" in done.error.message
    assert str(running.network.settings.cache) not in done.error.message
    assert "bad" not in running.network.library


def test_jobs_are_cancelled_waiting_or_running(client: Any, running: Running) -> None:
    file = upload(client, ROWS)
    long, waiting = (
        client.fine_tuning.jobs.create(
            model="base", training_file=file.id, suffix=name, hyperparameters={"n_epochs": 100_000}
        )
        for name in ("long", "waiting")
    )
    while not any("step" in event.message for event in client.fine_tuning.jobs.list_events(long.id)):
        time.sleep(0.02)
    for job in (waiting, long):
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    after = ended(client, client.fine_tuning.jobs.create(
        model="base", training_file=file.id, suffix="after", hyperparameters={"n_epochs": 1, "batch_size": 32}
    ))  # fmt: skip
    assert after.status == "succeeded", "the cancelled ones have made way"
    assert {one.status for one in (client.fine_tuning.jobs.retrieve(job.id) for job in (long, waiting))} == {
        "cancelled"
    }
    assert "long" not in running.network.library
    with pytest.raises(openai.BadRequestError, match="ended"):
        client.fine_tuning.jobs.cancel(long.id)


def test_a_server_that_stopped_goes_on_with_its_jobs(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home", max_tokens=8)
    records = tmp_path / "records.sqlite"
    with (
        served(network, records=records) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="x") as client,
    ):
        file = upload(client, ROWS)
        job = client.fine_tuning.jobs.create(
            model="base", training_file=file.id, suffix="later", hyperparameters={"n_epochs": 20, "batch_size": 8}
        )
        while not any("step" in event.message for event in client.fine_tuning.jobs.list_events(job.id)):
            time.sleep(0.02)
    assert "later" not in network.library
    with (
        served(network, records=records) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="x") as client,
    ):
        assert ended(client, job).status == "succeeded"
    assert "later" in network.library
    network.close()


def test_a_paused_job_lets_others_by_and_goes_on_from_its_step(client: Any, running: Running) -> None:
    jobs = client.fine_tuning.jobs
    file = upload(client, ROWS)
    asked = {"model": "base", "training_file": file.id}
    long = jobs.create(suffix="long", hyperparameters={"n_epochs": 40, "batch_size": 8}, **asked)
    while not any("step" in event.message for event in jobs.list_events(long.id)):
        time.sleep(0.02)
    assert jobs.pause(long.id).paused
    with pytest.raises(openai.BadRequestError, match="paused"):
        jobs.pause(long.id)
    assert ended(client, jobs.create(suffix="short", hyperparameters={"max_steps": 1}, **asked)).status == "succeeded"
    assert jobs.retrieve(long.id).status == "queued"
    assert not jobs.resume(long.id).paused
    with pytest.raises(openai.BadRequestError, match="cannot be resumed"):
        jobs.resume(long.id)
    done = ended(client, long)
    assert done.status == "succeeded", done.error
    assert any("going on at step" in event.message for event in jobs.list_events(long.id))
    assert list(jobs.checkpoints.list(long.id)) == []
    other = jobs.create(suffix="other", hyperparameters={"n_epochs": 100_000}, **asked)
    jobs.pause(other.id)
    assert jobs.cancel(other.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="ended"):
        jobs.resume(other.id)


def test_it_is_scored_on_the_validation_file_and_learns_at_the_rate_that_is_asked(
    client: Any, running: Running
) -> None:
    rows, held = upload(client, ROWS), upload(client, [{"prompt": f"{n} plus?", "answer": "none."} for n in range(7)])
    done = ended(client, client.fine_tuning.jobs.create(
        model="base", training_file=rows.id, validation_file=held.id, suffix="rated",
        hyperparameters={"n_epochs": 1, "learning_rate_multiplier": 0.5},
    ))  # fmt: skip
    assert done.status == "succeeded", done.error
    assert done.validation_file == held.id
    assert done.hyperparameters.learning_rate_multiplier == 0.5
    card = running.network.library.get("rated").card
    assert card.lineage.settings["learning_rate"] == TrainSettings().learning_rate * 0.5
    assert card.lineage.rows == len(ROWS), "all of them are trained on"
    assert {score.n for score in card.scores["specialist"]} == {7}


def test_a_name_is_taken_over_only_with_replace(client: Any, running: Running) -> None:
    rows, held = upload(client, ROWS), upload(client, [{"prompt": f"{n} plus?", "answer": "none."} for n in range(7)])
    asked: Any = {"model": "base", "training_file": rows.id, "validation_file": held.id, "suffix": "adder"}
    asked |= {"hyperparameters": {"max_steps": 1}}
    assert ended(client, client.fine_tuning.jobs.create(**asked)).status == "succeeded"
    first = running.network.library.get("adder")
    with pytest.raises(openai.ConflictError, match="taken"):
        client.fine_tuning.jobs.create(**asked)
    done = ended(client, client.fine_tuning.jobs.create(**asked, seed=5, extra_body={"replace": True}))
    assert done.status == "succeeded", done.error
    second = running.network.library.get("adder")
    assert (first.card.version, second.card.version) == (1, 2)
    assert second.digest != first.digest
    assert client.models.retrieve("adder").version == 2


def test_so_many_jobs_wait_and_no_more(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home", max_tokens=8)
    with (
        served(network, max_jobs=2) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client,
    ):
        jobs = client.fine_tuning.jobs
        asked: Any = {"model": "base", "training_file": upload(client, ROWS).id}
        long = {**asked, "hyperparameters": {"n_epochs": 100_000}}
        first, second = jobs.create(**long), jobs.create(**long)
        with pytest.raises(openai.RateLimitError, match="2 trainings are under way or wait, of 2") as caught:
            jobs.create(**long)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        jobs.pause(first.id)  # it waits for nobody
        third = jobs.create(**long)
        with pytest.raises(openai.RateLimitError):
            jobs.resume(first.id)
        for job in (second, third):
            jobs.cancel(job.id)
        assert not jobs.resume(first.id).paused
        jobs.cancel(first.id)
        assert ended(client, jobs.create(**asked, hyperparameters={"max_steps": 1})).status == "succeeded"
        assert [one.status for one in jobs.list()].count("cancelled") == 3
    network.close()
