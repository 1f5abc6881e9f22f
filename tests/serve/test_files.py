"""Files for training, and what neither they nor jobs take."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import openai
import pytest

from tests.serve.tiny import Running

ROWS = [{"prompt": f"{n} and {n % 7}?", "answer": f"sum {n + n % 7}."} for n in range(40)]


def upload(client: Any, rows: list[dict[str, str]], name: str = "rows.jsonl") -> Any:
    content = "\n".join(map(json.dumps, rows)).encode()
    return client.files.create(file=(name, io.BytesIO(content)), purpose="fine-tune")


def test_a_file_is_kept_under_an_id_of_ours(client: Any, running: Running) -> None:
    file = upload(client, ROWS, "../../rows.jsonl")
    assert file.filename in ("rows.jsonl", "../../rows.jsonl")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).text.splitlines() == [json.dumps(row) for row in ROWS]
    assert file.bytes == len(client.files.content(file.id).content)
    assert [one.id for one in client.files.list()] == [file.id]
    folder = running.network.settings.cache / "uploads"
    assert [path.name for path in folder.iterdir()] == [file.id]
    client.files.delete(file.id)
    assert list(folder.iterdir()) == []
    for wrong in (file.id, "..%2F..%2Fbase", "%2Fetc%2Fpasswd", "..%00"):
        assert httpx.get(f"{running.url}/v1/files/{wrong}/content").status_code == 404


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"purpose": "batch"}, "purpose"), ({"purpose": "fine-tune", "expires_after": "1"}, "expires_after")],
)
def test_an_upload_says_what_it_is_for(running: Running, fields: dict[str, str], named: str) -> None:
    answer = httpx.post(f"{running.url}/v1/files", data=fields, files={"file": ("a", b"x")})
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    assert httpx.post(f"{running.url}/v1/files", json={"purpose": "fine-tune"}).status_code == 400
    assert httpx.post(f"{running.url}/v1/files", data={"purpose": "fine-tune"}).status_code == 400


@pytest.mark.parametrize(
    ("options", "named"),
    [({"training_file": "file-none"}, "training_file"), ({"model": "clerk"}, "model"), ({"suffix": "../x"}, "suffix"),
     ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
     ({"method": {"type": "dpo"}}, "method"), ({"hyperparameters": {"n_epochs": 0}}, "n_epochs")],
)  # fmt: skip
def test_a_field_that_is_not_honoured_is_named(client: Any, options: dict[str, Any], named: str) -> None:
    file = upload(client, ROWS)
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(**{"model": "base", "training_file": file.id} | options)
    assert named in str(caught.value.param)
