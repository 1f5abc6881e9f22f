"""What test_s3.py runs in an environment that has s3fs. Not a test itself."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec

from plural.errors import PluralError
from plural.specialists import BaseShape
from plural.specialists.shared import SharedLibrary
from tests.specialists.adapters import BASE, MODULES, make_staged


def main() -> None:
    url, home = sys.argv[1], Path(sys.argv[2])
    fs, root = fsspec.core.url_to_fs(url)
    fs.mkdir(root.partition("/")[0])
    here, there = (SharedLibrary(url, home / name, fresh=0.0) for name in ("here", "there"))
    staged = [make_staged(home / f"staged-{seed}", seed=seed) for seed in range(3)]
    told = {"published": here.publish(staged[0], name="clerk", replace=False).card.version}
    told["read"] = there.load(there.get("clerk").digest, BaseShape(BASE, 2, MODULES)).digest == here.get("clerk").digest

    def write(number: int) -> int:
        return (here, there)[number % 2].keep(staged[number % 3], name="clerk").card.version

    with ThreadPoolExecutor(2) as pool:
        told["kept"] = sorted(pool.map(write, range(6)))
    told["promoted"] = there.promote("clerk", 3).card.version
    told["seen"] = here.get("clerk").card.version
    told["back"] = here.rollback("clerk").card.version
    third = SharedLibrary(url, home / "third", fresh=0.0)
    weights = (here.get("clerk").path / "adapter_model.safetensors").read_bytes()
    spoiled = next(path for path in fs.find(root) if "/objects/" in path and fs.cat_file(path) == weights)
    fs.pipe_file(spoiled, b"something else")
    try:
        third.get("clerk").verify()
    except PluralError as error:
        told["refused"] = str(error).replace(spoiled, "OBJECT")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
