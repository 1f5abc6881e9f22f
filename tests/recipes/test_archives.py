"""Skills whose texts are read from archives: they are only tested where the archives were fetched before."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from plural.agents.schema import violations


def _fetched(*names: str) -> None:
    import sources

    for name in names:
        if not getattr(sources, name).path.exists():
            pytest.skip(f"{getattr(sources, name).file} is not in {sources.ARCHIVES}")


def test_an_archive_of_another_hash_is_refused(tmp_path, monkeypatch) -> None:
    import sources

    monkeypatch.setattr(sources, "ARCHIVES", tmp_path)
    (tmp_path / sources.USADDRESS.file).write_bytes(b"another one")
    with pytest.raises(RuntimeError, match="has the SHA-256"):
        sources.USADDRESS.fetched()


def test_addresses_keep_the_contract_and_are_held_out() -> None:
    _fetched("USADDRESS")
    import address

    train, test, messy = address.train_rows(), address.test_rows(), address.messy_rows()
    assert len(train) > 1100
    assert len(test) == 300
    assert len(messy) > 50
    trained = {address.key(row["prompt"]) for row in train}
    assert not trained & {address.key(row["prompt"]) for row in [*test, *messy]}
    for row in [*train, *test, *messy]:
        parts = json.loads(row["answer"])
        assert not violations(parts, address.contract()), row
        assert list(parts) == [name for name in address.PARTS.values() if name in parts]
        for part in parts.values():
            assert all(word in row["prompt"] for word in part.split()), row


def test_headlines_are_held_out_and_balanced() -> None:
    _fetched("EVALS")
    import opinions

    train, test = opinions.sarcasm_train_rows(), opinions.sarcasm_test_rows()
    assert len(train) > 25_000
    assert len(test) == 1000
    assert not {opinions.key(row["prompt"]) for row in train} & {opinions.key(row["prompt"]) for row in test}
    assert 0.45 < Counter(row["answer"] for row in test)["yes"] / 1000 < 0.55


def test_opinions_are_held_out_in_every_domain() -> None:
    _fetched("VADER")
    import opinions

    train = {opinions.key(row["prompt"]) for row in opinions.sentiment_train_rows()}
    assert len(train) > 9000
    for rows in (opinions.sentiment_test_rows(), *(rows() for rows in opinions.other_domains().values())):
        assert len(rows) >= 200
        assert not train & {opinions.key(row["prompt"]) for row in rows}
        assert 0.4 < Counter(row["answer"] for row in rows)["positive"] / len(rows) < 0.6
