"""Two judgements of short texts: whether a headline is sarcastic, and whether a sentence is positive or negative.

Headlines come from the data of OpenAI's `evals`, sentences about films from the human ratings that come with
`vaderSentiment`; both packages are MIT, but the texts are other people's, so that they are read from the packages'
archives and never kept here. The test is held out by a hash of the text. Sentiment has a second test in each of three
other domains that the same raters judged: product reviews, newspaper editorials, tweets.
"""

from __future__ import annotations

import functools
import io
import json
import random
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from sources import EVALS, VADER

Row = dict[str, Any]

SARCASM_PURPOSE = "Tells a sarcastic headline from one that is meant."
SARCASM_INSTRUCTIONS = "Is the headline sarcastic?"
SENTIMENT_PURPOSE = "Tells whether a sentence is positive or negative."
SENTIMENT_INSTRUCTIONS = "Is it positive or negative?"
SARCASM = ("yes", "no")
SENTIMENT = ("positive", "negative")
DOMAINS = {"reviews": "amazonReviewSnippets", "editorials": "nytEditorialSnippets", "tweets": "tweets"}
_FILMS = "movieReviewSnippets"
_CLEAR = 0.5  # of 4: a mean rating nearer to 0 is no judgement
_LONGEST = 240  # characters


def key(text: str) -> str:
    """What near-duplicates share: the letters and digits."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _once(rows: Iterable[Row]) -> list[Row]:
    """Each text once, and none that is judged in two ways."""
    judged: dict[str, set[str]] = {}
    first: dict[str, Row] = {}
    for row in rows:
        judged.setdefault(key(row["prompt"]), set()).add(row["answer"])
        first.setdefault(key(row["prompt"]), row)
    return [row for text, row in first.items() if text and len(judged[text]) == 1]


def _by_hash(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: zlib.crc32(key(row["prompt"]).encode()))


# ------------------------------------------------------------------------------------------------------------- sarcasm
@functools.cache
def _headlines() -> list[Row]:
    lines = EVALS.read("evals/registry/data/sarcasm/samples.jsonl").decode("utf-8").splitlines()
    known = [json.loads(line) for line in lines if line.strip()]
    return _by_hash(
        _once(
            {"prompt": row["input"][1]["content"].strip(), "answer": SARCASM[row["ideal"] == "0"]}
            for row in known
            if len(row["input"][1]["content"]) <= _LONGEST
        )
    )


def sarcasm_train_rows() -> list[Row]:
    return _headlines()[1000:]


def sarcasm_test_rows() -> list[Row]:
    return _headlines()[:1000]


# ----------------------------------------------------------------------------------------------------------- sentiment
@functools.cache
def _rated(domain: str) -> list[Row]:
    archive = VADER.read("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        stream = opened.extractfile(f"hutto_ICWSM_2014/{domain}_GroundTruth.txt")
        assert stream is not None  # a file, not a folder
        lines = stream.read().decode("latin-1").splitlines()
    rows = []
    for _, rating, text in (line.split("\t") for line in lines):
        if abs(float(rating)) >= _CLEAR and len(text) <= _LONGEST:
            rows.append({"prompt": text.strip(), "answer": SENTIMENT[float(rating) < 0]})
    return _by_hash(_once(rows))


def sentiment_train_rows() -> list[Row]:
    return _rated(_FILMS)[500:]


def sentiment_test_rows() -> list[Row]:
    return _rated(_FILMS)[:500]


def _other(domain: str) -> list[Row]:
    """As many positive as negative ones, none of which is a training row."""
    known = {key(row["prompt"]) for row in sentiment_train_rows()}
    rows = [row for row in _rated(domain) if key(row["prompt"]) not in known]
    sides = [[row for row in rows if row["answer"] == side][:150] for side in SENTIMENT]
    fewest = min(map(len, sides))
    chosen = [row for side in sides for row in side[:fewest]]
    random.Random(7).shuffle(chosen)
    return chosen


def other_domains() -> dict[str, Callable[[], list[Row]]]:
    return {f"sentiment_{name}": functools.partial(_other, domain) for name, domain in DOMAINS.items()}
