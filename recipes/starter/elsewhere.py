"""Requests that no specialist is for, by a hundred other authors: a few rows of many data sets of OpenAI's `evals`.

They are what the router is tested on out of scope, and nothing is fitted to them. The rule picks them without looking:
sets whose names begin with E to R (the others were seen when `general.py` was written) and do not say that they are
about what a specialist does; of each, four rows of at most 300 characters. The texts are other people's and are read
from the package's archive (see `sources.py`), never kept here.
"""

from __future__ import annotations

import json
import random
import re
import zipfile
from collections.abc import Iterator

from sources import EVALS

_DATA = "evals/registry/data/"
# What the starter library's specialists do.
_OURS = re.compile(
    r"arith|math|numer|number|digit|calc|count|sum|multipl|divi|algebra|equation|polynom|expression|solve|linear|unit|convert|"
    r"date|time|day|calendar|clock|schedul|cron|tool|function|call|address|location|famil|kin|relation|sarcas|headline|"
    r"sentiment|review|opinion|sort|prime|factor|round|gcd|lcm|home|plan",
    re.IGNORECASE,
)
EACH, LONGEST, MOST = 4, 300, 400


def out_of_scope() -> list[str]:
    """At most `MOST` prompts, the same ones every time."""
    chance, found = random.Random(11), list[str]()
    with zipfile.ZipFile(EVALS.fetched()) as archive:
        names = sorted(one for one in archive.namelist() if one.startswith(_DATA) and one.endswith(".jsonl"))
        seen = set[str]()
        for name in names:
            group = name.removeprefix(_DATA).split("/")[0]
            if group in seen or not "e" <= group[0].lower() <= "r" or _OURS.search(name):
                continue
            texts = sorted(set(_prompts(archive.read(name))))
            if len(texts) >= EACH:
                seen.add(group)
                found += chance.sample(texts, EACH)
    return chance.sample(found, min(MOST, len(found)))


def _prompts(lines: bytes) -> Iterator[str]:
    for line in lines[:2_000_000].splitlines():
        try:
            given = json.loads(line).get("input")
        except ValueError:
            continue
        said = given[-1].get("content") if isinstance(given, list) and given and isinstance(given[-1], dict) else given
        if isinstance(said, str) and 1 < len(said.strip()) <= LONGEST:
            yield said.strip()
