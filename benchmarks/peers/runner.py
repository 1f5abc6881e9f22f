"""What a runner of one engine is given and what it prints. Only the standard library: every environment has it.

A runner is called with a job (JSON): the model's directory and GGUF file, a precision, threads, the adapters' paths,
and cases, each with `in_flight` and its requests {prompt: token ids, tokens, adapter: index or null}. It prints READY
once the engine could answer, and one line of JSON with the seconds, the CPU seconds and the output ids of every case.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Requests = list[dict[str, Any]]
# Answers requests, at most so many in flight, with the ids that it drew for each, in their order.
Answer = Callable[[Requests, int], list[list[int]]]


def given_job() -> dict[str, Any]:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return job


def peak_kib(pid: int | str = "self") -> int:
    """The most memory that a process had resident, in KiB: getrusage would count its parent's, too."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def run_cases(
    job: dict[str, Any],
    answer: Answer,
    cpu: Callable[[], float] = time.process_time,
    peak: Callable[[], int] = peak_kib,
) -> None:
    """`cpu` are the CPU seconds of the engine so far, `peak` its peak memory in KiB. The warm-up is not counted."""
    print("READY", flush=True)
    answer(job["warmup"]["requests"], job["warmup"]["in_flight"])
    done = []
    for case in job["cases"]:
        start, spent = time.perf_counter(), cpu()
        ids = answer(case["requests"], case["in_flight"])
        done.append({"seconds": time.perf_counter() - start, "cpu": cpu() - spent, "ids": ids})
        print(f"{case['name']}: {done[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps({"peak_kib": peak(), "cases": done}), flush=True)
