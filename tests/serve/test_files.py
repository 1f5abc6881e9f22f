"""Files for training, and what neither they nor jobs take."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from plural.serve.keys import make_key, write_keys
from tests.serve.tiny import Running, served, tiny_network

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


def test_an_upload_has_a_limit_of_its_own(tmp_path: Path) -> None:
    network = tiny_network(tmp_path / "home")
    with served(network, body_limit=1024, upload_limit=4096) as running:

        def send(content: Any, **more: Any) -> httpx.Response:
            return httpx.post(f"{running.url}/v1/files", content=content, headers=HEADERS | more)

        small, large = form(2000), form(5000)
        assert send(small).status_code == 200, "it is larger than other bodies may be"
        assert send(large).json()["error"]["code"] == "body_too_large"
        chunked = send(large[start : start + 1000] for start in range(0, len(large), 1000))
        assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "body_too_large")
        assert len(list((network.settings.cache / "uploads").iterdir())) == 1
    network.close()


def test_the_files_of_one_key_have_a_limit_in_all(tmp_path: Path) -> None:
    made = [make_key(["train"]) for _ in range(2)]
    write_keys(tmp_path / "keys.json", [key for _, key in made])
    network = tiny_network(tmp_path / "home")
    with served(network, keys=tmp_path / "keys.json", upload_total=5000) as running:
        one, other = (HEADERS | {"Authorization": f"Bearer {key}"} for key, _ in made)

        def send(headers: dict[str, str], size: int) -> httpx.Response:
            return httpx.post(f"{running.url}/v1/files", content=form(size), headers=headers)

        first = send(one, 3000)
        full = send(one, 3000)
        assert (full.status_code, full.json()["error"]["code"]) == (413, "upload_total_exceeded")
        assert "6000 bytes, of 5000 at most" in full.json()["error"]["message"]
        assert send(other, 3000).status_code == 200, "it is another key's room"
        assert send(one, 2000).status_code == 200
        httpx.delete(f"{running.url}/v1/files/{first.json()['id']}", headers=one)
        assert send(one, 3000).status_code == 200
        kept = [path.stat().st_size for path in (network.settings.cache / "uploads").iterdir()]
        assert sorted(kept) == [2000, 3000, 3000]
    network.close()


HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}


def form(size: int) -> bytes:
    """A file of so many bytes."""
    said = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
    said += b'--b\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
    return said + b"x" * size + b"\r\n--b--\r\n"
