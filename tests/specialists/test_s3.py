"""A library in S3: moto's server on this machine, s3fs, both in an environment of their own (make peers)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(os.environ.get("PLURAL_PEERS", "~/.cache/plural/peers")).expanduser() / "s3" / "bin"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BIN.is_dir(), reason="s3fs and moto are not installed: make peers"),
]


@pytest.fixture
def endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def test_a_library_in_s3(endpoint: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "FSSPEC_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    done = subprocess.run(
        [BIN / "python", "-m", "tests.specialists.s3_client", "s3://shelf/library", str(tmp_path)],
        capture_output=True, text=True, env=environment, cwd=root, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    refused = told.pop("refused")
    assert told == {"published": 1, "read": True, "kept": [2, 3, 4, 5, 6, 7], "promoted": 3, "seen": 3, "back": 1}
    assert refused.startswith(
        "The object OBJECT in the library s3://shelf/library, adapter_model.safetensors of clerk@1,"
    )
