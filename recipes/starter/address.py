"""Postal addresses of the United States, and their parts.

The addresses were labelled by hand for the parser `usaddress` (MIT). They are real ones, some with names, so that they
are read from the package's source archive and never kept here. The test is made of addresses that no training row has;
`messy_rows` are the fifty that usaddress keeps as its own hardest test.
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from sources import USADDRESS

Row = dict[str, Any]

NAME = "address"
PURPOSE = "Splits a US postal address into its parts, as JSON."
INSTRUCTIONS = "Address to JSON."
_FOLDER = "usaddress-0.5.16/training"
_TRAINED = ("labeled.xml", "multi_word_state_addresses.xml", "us50_train_tagged.xml")
_MESSY = "us50_messiest_manual_label.xml"
TESTED = 300
# The name of each part in the answer, in the order of the contract. Rare parts keep their label.
PARTS = {
    "Recipient": "recipient",
    "LandmarkName": "landmark",
    "BuildingName": "building",
    "CornerOf": "corner_of",
    "AddressNumberPrefix": "number_prefix",
    "AddressNumber": "number",
    "AddressNumberSuffix": "number_suffix",
    "StreetNamePreModifier": "street_pre_modifier",
    "StreetNamePreDirectional": "street_pre_direction",
    "StreetNamePreType": "street_pre_type",
    "StreetName": "street",
    "StreetNamePostType": "street_type",
    "StreetNamePostDirectional": "street_direction",
    "StreetNamePostModifier": "street_post_modifier",
    "IntersectionSeparator": "and",
    "SecondStreetNamePreDirectional": "street_2_pre_direction",
    "SecondStreetNamePreType": "street_2_pre_type",
    "SecondStreetName": "street_2",
    "SecondStreetNamePostType": "street_2_type",
    "SecondStreetNamePostDirectional": "street_2_direction",
    "SubaddressType": "subaddress_type",
    "SubaddressIdentifier": "subaddress",
    "OccupancyType": "unit_type",
    "OccupancyIdentifier": "unit",
    "USPSBoxType": "box_type",
    "USPSBoxID": "box",
    "USPSBoxGroupType": "box_group_type",
    "USPSBoxGroupID": "box_group",
    "PlaceName": "city",
    "StateName": "state",
    "ZipCode": "zip",
    "ZipPlus4": "zip_plus_4",
    "CountryName": "country",
    "NotAddress": "other",
}


def contract() -> dict[str, Any]:
    """The JSON Schema of an answer: known parts only, each a text."""
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in PARTS.values()},
        "additionalProperties": False,
    }


def _addresses(file: str) -> Iterator[Row]:
    """Every address of a file as its text and the JSON of its parts; a second street has parts of its own."""
    tree = ElementTree.fromstring(USADDRESS.read(f"{_FOLDER}/{file}"))
    for one in tree.iter("AddressString"):
        text = " ".join("".join(one.itertext()).split())
        found: dict[str, list[str]] = {}
        crossed = False
        for part in one:
            crossed |= part.tag == "IntersectionSeparator"
            label = f"Second{part.tag}" if crossed and part.tag.startswith("StreetName") else part.tag
            if label in PARTS and (said := _bare(part.text or "")):
                found.setdefault(label, []).append(said)
        parts = {name: " ".join(found[label]) for label, name in PARTS.items() if label in found}
        if text and parts:
            yield {"prompt": text, "answer": json.dumps(parts, separators=(",", ":"), ensure_ascii=False)}


def _bare(word: str) -> str:
    """Without the commas and brackets around it; "S." keeps its point."""
    return " ".join(word.split()).strip(",;()").strip()


def key(prompt: str) -> str:
    """What two writings of one address share."""
    return re.sub(r"[\W_]+", " ", prompt.casefold()).strip()


@functools.cache
def _known() -> tuple[Row, ...]:
    """Every labelled address once, shuffled by its hash, so that no order of the file decides who is held out."""
    found: dict[str, Row] = {}
    for file in _TRAINED:
        for row in _addresses(file):
            found.setdefault(key(row["prompt"]), row)
    apart = {key(row["prompt"]) for row in messy_rows()}
    return tuple(found[each] for each in sorted(set(found) - apart, key=lambda text: zlib.crc32(text.encode())))


def train_rows() -> list[Row]:
    return list(_known()[TESTED:])


def test_rows() -> list[Row]:
    return list(_known()[:TESTED])


@functools.cache
def messy_rows() -> list[Row]:
    return list({key(row["prompt"]): row for row in _addresses(_MESSY)}.values())
