"""Times a cold start: from the process's start to the first token of `plural ask`, with a warm cache directory.

    python benchmarks/coldstart.py                 the median of 7 runs, and which packages the imports' time goes to

The first run is not counted: it may prepare the base. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

QUESTION = "Turn off the lights in the kitchen"
COMMAND = "from plural.cli import main; main()"


def first_token(question: str, python: list[str]) -> tuple[float, str]:
    """Seconds to the first token, and what the process wrote to its standard error until its end."""
    start, first = time.perf_counter(), None
    command = [*python, "-c", COMMAND, "ask", "--json", question]
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody reads would stop the process when it is full
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if first is None and json.loads(line)["event"] == "TextDelta":
                    first = time.perf_counter() - start
        errors.seek(0)
        said = errors.read()
    if process.returncode or first is None:
        raise SystemExit(f"plural ask ended with {process.returncode}:\n{said}")
    return first, said


def import_times(errors: str) -> dict[str, float]:
    """Seconds that each package's own modules took, from what `-X importtime` writes: self | cumulative | name."""
    seconds: dict[str, float] = defaultdict(float)
    for line in errors.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and own.strip().isdigit():
            seconds[rest.rpartition("|")[2].strip().partition(".")[0]] += int(own) / 1e6
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--packages", type=int, default=12, help="how many of the heaviest are shown")
    given = parser.parse_args()
    first_token(given.question, [sys.executable])
    taken = [first_token(given.question, [sys.executable])[0] for _ in range(given.runs)]
    median = statistics.median(taken)
    print(f"process start to first token: {median:.2f} s ({min(taken):.2f} to {max(taken):.2f}, {given.runs} runs)")
    traced, errors = first_token(given.question, [sys.executable, "-X", "importtime"])
    packages = import_times(errors)
    heaviest = dict(sorted(packages.items(), key=lambda each: -each[1])[: given.packages])
    print(f"of a run that timed its imports ({traced:.2f} s): {sum(packages.values()):.2f} s are imports")
    for name, seconds in heaviest.items():
        print(f"{name:>24}{seconds:9.3f} s")
    print(json.dumps({"benchmark": "coldstart", "seconds": taken, "median": median, "imports": heaviest}))


if __name__ == "__main__":
    main()
