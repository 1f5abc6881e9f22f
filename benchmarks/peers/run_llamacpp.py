"""Runs a job of runner.py on llama.cpp's server, over HTTP on this machine; it stands beside this environment's python.

The server reads `"lora": []` as its defaults; started with --lora-init-without-apply, these are the base.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from runner import Requests, given_job, peak_kib, run_cases


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(job: dict[str, Any], port: int) -> subprocess.Popen[bytes]:
    slots, threads = job["in_flight"], str(job["threads"])
    room = str(slots * job["context"])
    loras = [part for path in job["adapters"] for part in ("--lora", path)]
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("llama-server")), "-m", job["model"], "--parallel", str(slots), "-c", room]
        + ["-t", threads, "-tb", threads, "--host", "127.0.0.1", "--port", str(port), *loras]
        + (["--lora-init-without-apply"] if loras else []),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    while server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    sys.exit(f"llama-server ended with {server.returncode}")


def main() -> None:
    job = given_job()
    port = free_port()
    server = start(job, port)

    def one(request: dict[str, Any]) -> list[int]:
        asked = {
            "prompt": request["prompt"],
            "n_predict": request["tokens"],
            "temperature": 0,
            "ignore_eos": True,
            "return_tokens": True,
            "lora": [] if request["adapter"] is None else [{"id": request["adapter"], "scale": 1.0}],
        }
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        return list(answer["tokens"])

    def answer(requests: Requests, in_flight: int) -> list[list[int]]:
        with concurrent.futures.ThreadPoolExecutor(in_flight) as callers:
            return list(callers.map(one, requests))

    def cpu() -> float:
        """Of the server: user and system time, fields 14 and 15 of proc(5)'s stat."""
        after_name = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")

    try:
        until_ready(server, port)
        run_cases(job, answer, cpu, lambda: peak_kib(server.pid))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
