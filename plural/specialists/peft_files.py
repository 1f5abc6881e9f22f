"""An adapter on disk: PEFT's directory of `adapter_config.json` and `adapter_model.safetensors`.

Reading is loud. Whatever the config or the weights ask for that Plural would not do, is refused by name: an adapter
that loads does here what it does in PEFT.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from plural.errors import NumericError, SpecialistError, StorageError
from plural.specialists.adapter import AdapterConfig, AdapterWeights, Array, module_path
from plural.specialists.mapped import MappedTensors
from plural.specialists.shape import BaseShape

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLE_FILE = "adapter_model.bin"

_TENSOR = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight")
# What decides the function that an adapter computes; the rest is bookkeeping and no part of its identity.
_MEANING = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora",
)  # fmt: skip
# Part of the meaning where it is given: an activated adapter.
_INVOCATION = "alora_invocation_tokens"
# Read by training or by PEFT's own book-keeping only.
_NEUTRAL = (
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "init_lora_weights",
    "ensure_weight_tying", "runtime_config",
)  # fmt: skip
# These initialisations change the base's own weights, so that the adapter does not fit the base any more.
_INIT_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def read_adapter(path: Path, shape: BaseShape) -> AdapterWeights:
    """The adapter in directory `path`, checked against the base's shape tensor by tensor.

    Raises SpecialistError naming the file and the value for anything that is missing, damaged, of another base's shape,
    not finite, without effect, or not supported.
    """
    files = _read_files(path)
    tensors = files.weights.tensors()
    config = _resolve(files.config, shape, path / CONFIG_FILE)
    pairs = _pair(tensors, config, shape, path / WEIGHTS_FILE)
    _check_effect(pairs, config, path)
    return AdapterWeights(files.digest, config, pairs, files.weights.check)


def read_invocation(path: Path) -> tuple[int, ...]:
    """The tokens from which on the adapter acts; empty for one that acts on all. Raises SpecialistError as reading."""
    return _invocation(_read_config(path), path / CONFIG_FILE)


def adapter_digest(path: Path) -> str:
    """sha256 of the bytes of the weights and of what the config means. Raises SpecialistError as reading does."""
    return _read_files(path).digest


def write_adapter(
    path: Path, weights: AdapterWeights, *, base_name: str, dtype: Literal["float16", "float32"] = "float16"
) -> None:
    """Writes a PEFT directory that PEFT loads; `path` is made, its two files are replaced one by one, weights first.

    Raises NumericError if a value does not fit into `dtype` and StorageError if the files cannot be written.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for (layer, module), pair in sorted(weights.tensors.items()):
        for letter, array in zip("AB", pair, strict=True):
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(array, dtype=dtype)
            if not np.isfinite(stored).all():
                raise NumericError(f"lora_{letter} of {module} in layer {layer} holds a value that {dtype} cannot.")
            arrays[f"base_model.model.{module_path(layer, module)}.lora_{letter}.weight"] = stored
    config = weights.config
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(config.targets),
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "use_rslora": config.use_rslora,
        **({_INVOCATION: list(config.invocation)} if config.invocation else {}),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_file(path / WEIGHTS_FILE, save(arrays, metadata={"format": "pt"}))
        write_file(path / CONFIG_FILE, (json.dumps(written, indent=1) + "\n").encode())
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}.", hint="Free some space."
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """`path` holds all of `content`, on the disk, or what it held before. Raises OSError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def store(path: Path, content: bytes) -> Path:
    """The same, in a folder that is made where there is none. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}.", hint="Free some space and go on."
        ) from error
    return path


# ------------------------------------------------------------------------------------------------------------- files
@dataclass(frozen=True)
class _Files:
    config: Mapping[str, Any]
    weights: MappedTensors

    @property
    def digest(self) -> str:
        meaning: dict[str, Any] = {key: self.config.get(key) for key in _MEANING}
        for key in ("target_modules", "exclude_modules"):
            if isinstance(meaning[key], list):
                meaning[key] = sorted(meaning[key])
        if self.config.get(_INVOCATION) is not None:
            meaning[_INVOCATION] = self.config[_INVOCATION]
        found = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode())
        found.update(hashlib.sha256(self.weights.content).digest())
        self.weights.check()
        return f"sha256:{found.hexdigest()}"


def _read_files(path: Path) -> _Files:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            if name == WEIGHTS_FILE and (path / _PICKLE_FILE).exists():
                raise SpecialistError(
                    f"{path / _PICKLE_FILE} is a pickle, which can run any code when it is read; it is refused.",
                    hint="Save the adapter again with safe_serialization=True.",
                )
            raise SpecialistError(f"{path} has no {name}.", hint="An adapter is a directory as PEFT saves it.")
    try:
        return _Files(_read_config(path), MappedTensors(path / WEIGHTS_FILE))
    except OSError as error:
        raise SpecialistError(f"{path} cannot be read: {error.strerror}.") from error


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((path / CONFIG_FILE).read_bytes())
    except OSError as error:
        raise SpecialistError(f"{path / CONFIG_FILE} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SpecialistError(f"{path / CONFIG_FILE} is not JSON: {error}.", hint="Fetch it again.") from error
    if not isinstance(config, dict):
        raise SpecialistError(f"{path / CONFIG_FILE} holds {type(config).__name__}, not an object.")
    return config


# ------------------------------------------------------------------------------------------------------------ config
def _resolve(raw: Mapping[str, Any], shape: BaseShape, source: Path) -> AdapterConfig:
    """The config in our words. Which modules it targets is worked out against the base, so that none is lost."""
    _refuse_unsupported(raw, source)
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    rank_pattern, alpha_pattern = raw.get("rank_pattern") or {}, raw.get("alpha_pattern") or {}
    for what, value in (("r", rank), *((f"rank_pattern of {key}", value) for key, value in rank_pattern.items())):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecialistError(f"{source}: {what} is {value!r}; a rank is a whole number of at least 1.")
    for what, value in (("lora_alpha", alpha), *((f"alpha_pattern of {key}", v) for key, v in alpha_pattern.items())):
        if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
            raise SpecialistError(f"{source}: {what} is {value!r}; it must be a number.")
    for key in (*rank_pattern, *alpha_pattern):
        _compile(key, source)
    assert isinstance(rank, int)
    assert isinstance(alpha, int | float)
    targets = _targets(raw, shape, source)
    return AdapterConfig(
        rank, float(alpha), targets, rank_pattern, alpha_pattern, bool(raw.get("use_rslora")), _invocation(raw, source)
    )


def _invocation(raw: Mapping[str, Any], source: Path) -> tuple[int, ...]:
    asked = raw.get(_INVOCATION)
    if asked is None:
        return ()
    if not isinstance(asked, list) or not asked or not all(type(token) is int and token >= 0 for token in asked):
        raise SpecialistError(
            f"{source}: {_INVOCATION} is {asked!r:.80}; it must be token ids.", hint="Leave it out for a plain LoRA."
        )
    return tuple(asked)


def _refuse_unsupported(raw: Mapping[str, Any], source: Path) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise SpecialistError(f"{source}: peft_type is {kind!r}; only LORA is supported.")
    if raw.get("bias", "none") != "none":
        raise SpecialistError(
            f"{source}: bias is {raw['bias']!r}; trained biases are not supported.", hint='Use bias "none".'
        )
    initial = raw.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_INIT_CHANGES_BASE):
        raise SpecialistError(
            f"{source}: init_lora_weights is {initial!r}, which changed the base's own weights.",
            hint="Convert it to a plain LoRA when saving (path_initial_model_for_weight_conversion).",
        )
    for key, value in raw.items():
        known = (*_MEANING, *_NEUTRAL, _INVOCATION, "bias")
        if key not in known and value not in (None, False, [], {}):
            raise SpecialistError(
                f"{source}: {key} is {value!r:.60}, which is not supported.", hint="Train a plain LoRA."
            )


def _targets(raw: Mapping[str, Any], shape: BaseShape, source: Path) -> tuple[str, ...]:
    """Module names where every layer has the module, else its full ends. Raises for a target that matches nothing."""
    asked = raw.get("target_modules")
    if isinstance(asked, str):
        asked = list(shape.modules) if asked == "all-linear" else _compile(asked, source)
    elif not isinstance(asked, list) or not asked or not all(isinstance(each, str) for each in asked):
        raise SpecialistError(f"{source}: target_modules is {asked!r}; it must name modules.")
    places = [(layer, module) for module in shape.modules for layer in range(shape.num_layers)]
    every = {where: module_path(*where) for where in places}
    if isinstance(asked, list):
        for target in asked:
            if not any(map(_hits([target]), every.values())):
                raise SpecialistError(
                    f"{source}: the target {target!r} is no linear of this base.",
                    hint=f"Linears: {', '.join(shape.modules)}.",
                )
    excluded = raw.get("exclude_modules") or []
    banned = _hits(_compile(excluded, source) if isinstance(excluded, str) else excluded)
    layers = _layers(raw, shape, source) if isinstance(asked, list) else range(shape.num_layers)
    meant = _hits(asked)
    chosen = [where for where, path in every.items() if where[0] in layers and meant(path) and not banned(path)]
    if not chosen:
        raise SpecialistError(f"{source}: target_modules {asked!r:.80} matches no linear of this base.")
    held = {module: [layer for layer, name in chosen if name == module] for module in shape.modules}
    return tuple(
        target
        for module, where in held.items()
        for target in ([module] if len(where) == shape.num_layers else [module_path(layer, module) for layer in where])
    )


def _layers(raw: Mapping[str, Any], shape: BaseShape, source: Path) -> list[int]:
    asked, pattern = raw.get("layers_to_transform"), raw.get("layers_pattern")
    if asked is None or asked == []:
        return list(range(shape.num_layers))
    if pattern not in (None, "", [], "layers", ["layers"]):
        raise SpecialistError(f"{source}: layers_pattern is {pattern!r}; this base's layers are called 'layers'.")
    layers = [asked] if isinstance(asked, int) else asked
    wrong = [layer for layer in layers if not isinstance(layer, int) or not 0 <= layer < shape.num_layers]
    if wrong:
        raise SpecialistError(
            f"{source}: layers_to_transform names {wrong[0]!r}; this base has layers 0 to {shape.num_layers - 1}."
        )
    return list(layers)


def _compile(pattern: str, source: Path) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SpecialistError(f"{source}: {pattern!r} is not a regular expression: {error}.") from error


def _hits(asked: list[str] | re.Pattern[str]) -> Callable[[str], bool]:
    """Whether a path is what is asked for: all of it matches the pattern, or it ends as one of the names."""
    if isinstance(asked, re.Pattern):
        return lambda path: asked.fullmatch(path) is not None
    ends = tuple(f".{name}" for name in asked)
    return lambda path: f".{path}".endswith(ends)


# ----------------------------------------------------------------------------------------------------------- weights
def _pair(
    tensors: Mapping[str, Array], config: AdapterConfig, shape: BaseShape, source: Path
) -> dict[tuple[int, str], tuple[Array, Array]]:
    """Every tensor has its place, every place that the config targets its two tensors, and all shapes fit."""
    covered = {
        (layer, module): None
        for layer in range(shape.num_layers)
        for module in shape.modules
        if config.covers(layer, module)
    }
    found: dict[tuple[int, str, str], Array] = {}
    for name, array in tensors.items():
        match = _TENSOR.fullmatch(name)
        place = (int(match[1]), match[2]) if match else None
        if match is None or place is None or place[0] >= shape.num_layers or place[1] not in shape.modules:
            raise SpecialistError(
                f"{source}: the tensor {name} fits nothing in this base.",
                hint="The adapter is of another base, or not a plain LoRA.",
            )
        if place not in covered:
            raise SpecialistError(f"{source}: the tensor {name} is of a module that target_modules does not name.")
        found[(*place, match[3])] = array
    pairs: dict[tuple[int, str], tuple[Array, Array]] = {}
    for layer, module in covered:
        rank = config.rank_of(layer, module)
        inputs, outputs = shape.modules[module]
        for letter, expected in (("A", (rank, inputs)), ("B", (outputs, rank))):
            held = found.get((layer, module, letter))
            if held is None:
                raise SpecialistError(
                    f"{source} lacks lora_{letter} of {module} in layer {layer}, which target_modules names.",
                    hint="The file is not complete, or config and weights are of different adapters.",
                )
            if held.shape != expected:
                raise SpecialistError(
                    f"{source}: lora_{letter} of {module} in layer {layer} has shape {list(held.shape)}; "
                    f"rank {rank} on this base asks for {list(expected)}.",
                    hint="The adapter is of another base, or of another rank than its config says.",
                )
        pairs[layer, module] = (found[layer, module, "A"], found[layer, module, "B"])
    return pairs


def _check_effect(pairs: Mapping[tuple[int, str], tuple[Array, Array]], config: AdapterConfig, path: Path) -> None:
    if not any(a_RI.any() and b_OR.any() and config.scale_of(*where) for where, (a_RI, b_OR) in pairs.items()):
        raise SpecialistError(
            f"The adapter in {path} would change nothing: all of its updates are zero.",
            hint="It was saved before it was trained.",
        )
