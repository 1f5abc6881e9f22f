"""Skills of reading: addresses, families, headlines, opinions."""

from __future__ import annotations

import json

import address
import kinship
import opinions
from skill import APACHE, SETTINGS, Skill, some

from plural.specialists import Contract


def _choices(options: tuple[str, ...]) -> Contract:
    return Contract(kind="choices", source=json.dumps(list(options)))


SKILLS: dict[str, Skill] = {
    "address": Skill(
        name=address.NAME,
        purpose=address.PURPOSE,
        instructions=address.INSTRUCTIONS,
        asked_of_base=(
            "Split the US postal address into its parts as JSON with these names, only those that occur, in this "
            f"order: {', '.join(address.PARTS.values())}. Example: 12 N. Main St., Ames, IA is "
            '{"number":"12","street_pre_direction":"N.","street":"Main","street_type":"St.","city":"Ames",'
            '"state":"IA"}. Answer only with the JSON.'
        ),
        checker="parts",
        train_rows=address.train_rows,
        test_rows=address.test_rows,
        examples=lambda: some(address.train_rows()),
        settings={**SETTINGS, "batch_rows": 8, "max_steps": 80},
        licence="MIT",
        output=Contract(kind="json_schema", source=json.dumps(address.contract(), separators=(",", ":"))),
        max_tokens=160,
        more_tests={"address_messy": address.messy_rows},
    ),
    "kinship": Skill(
        name=kinship.NAME,
        purpose=kinship.PURPOSE,
        instructions=kinship.INSTRUCTIONS,
        asked_of_base=f"Answer with one word, one of: {', '.join(kinship.CHOICES)}.",
        checker="value",
        train_rows=kinship.train_rows,
        test_rows=kinship.held_out_rows,
        examples=lambda: some(kinship.train_rows()),
        settings={**SETTINGS, "rank": 8, "batch_rows": 32, "max_steps": 300},
        licence=APACHE,
        output=_choices(kinship.CHOICES),
        max_tokens=8,
        more_tests={"kinship_large": kinship.large_rows, "kinship_told": kinship.told_rows},
    ),
    "sarcasm": Skill(
        name="sarcasm",
        purpose=opinions.SARCASM_PURPOSE,
        instructions=opinions.SARCASM_INSTRUCTIONS,
        asked_of_base="Is this headline sarcastic, that is satire, and not meant? Answer only yes or no.",
        checker="exact",
        train_rows=opinions.sarcasm_train_rows,
        test_rows=opinions.sarcasm_test_rows,
        examples=lambda: some(opinions.sarcasm_train_rows()),
        settings={**SETTINGS, "activated": True, "batch_rows": 16, "max_steps": 150},
        licence="MIT",
        output=_choices(opinions.SARCASM),
        max_tokens=4,
    ),
    "sentiment": Skill(
        name="sentiment",
        purpose=opinions.SENTIMENT_PURPOSE,
        instructions=opinions.SENTIMENT_INSTRUCTIONS,
        asked_of_base="Is what the sentence says positive or negative? Answer only positive or negative.",
        checker="exact",
        train_rows=opinions.sentiment_train_rows,
        test_rows=opinions.sentiment_test_rows,
        examples=lambda: some(opinions.sentiment_train_rows()),
        settings={**SETTINGS, "activated": True, "batch_rows": 16, "max_steps": 150},
        licence="MIT",
        output=_choices(opinions.SENTIMENT),
        max_tokens=4,
        more_tests=opinions.other_domains(),
    ),
}
