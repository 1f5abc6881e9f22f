"""Reads a local Hugging Face model directory: config.json, safetensors, tokenizer.json. Never a pickle.

Sliding-window attention (Mistral 7B v0.1, some Qwen2) is exact here because the context is capped to the window:
inside it the window hides nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from plural.errors import BaseModelError
from plural.models.config import DecoderConfig
from plural.models.decoder import DecoderWeights
from plural.models.tokenizer import Tokenizer, end_ids, load_backend
from plural.models.weights import Progress, check_shapes, fuse

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

_AGAIN = "Fetch the model again."
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class ModelDirectory:
    path: Path
    config: DecoderConfig
    raw: Mapping[str, Any]
    files: tuple[Path, ...]

    def digest(self) -> str:
        """SHA-256 of config.json and the weight files, in name order."""
        total = hashlib.sha256((self.path / "config.json").read_bytes())
        for path in self.files:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return f"sha256:{total.hexdigest()}"

    def weights(self, progress: Progress) -> DecoderWeights:
        """Raises BaseModelError for missing or wrongly shaped tensors and for damaged files."""
        where: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            handle = _open(path)
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                where[name] = handle
                shapes[name] = tuple(handle.get_slice(name).get_shape())
        check_shapes(self.config, shapes, self.path)

        def read(name: str) -> Tensor:
            tensor: Tensor = where[name].get_tensor(name)
            return tensor

        return fuse(self.config, read, self.path, progress)

    def tokenizer(self) -> tuple[Tokenizer, str | None]:
        """The tokenizer and the chat template, if there is one."""
        path = self.path / "tokenizer.json"
        if not path.exists():
            raise BaseModelError(
                f"{self.path} has no tokenizer.json.",
                hint="Convert it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
            )
        settings = _json(self.path / "tokenizer_config.json", optional=True)
        generation = _json(self.path / "generation_config.json", optional=True)
        named = {key: _text(settings[key]) for key in _NAMED if settings.get(key)}
        backend = load_backend(path.read_text(encoding="utf-8"), str(path))
        eos_token = backend.token_to_id(named["eos_token"]) if "eos_token" in named else None
        endings = end_ids(self.raw.get("eos_token_id"), generation.get("eos_token_id"), eos_token)
        return Tokenizer(backend, ending_ids=endings, named=named), self._template(settings)

    def _template(self, settings: Mapping[str, Any]) -> str | None:
        path = self.path / "chat_template.jinja"
        if path.exists():
            return path.read_text(encoding="utf-8")
        template = settings.get("chat_template")
        if isinstance(template, list):
            template = {one["name"]: one["template"] for one in template}.get("default")
        return template


def open_directory(path: Path) -> ModelDirectory:
    """Raises BaseModelError for an architecture that is not supported (by name), and when there are no safetensors."""
    raw = _json(path / "config.json")
    found = raw.get("architectures") or ["none"]
    if found[0] not in ARCHITECTURES:
        raise BaseModelError(
            f"{path} holds a {found[0]} model, which is not supported.", hint=f"Supported: {', '.join(ARCHITECTURES)}."
        )
    files = _weight_files(path)
    try:
        config = _config(path, raw, found[0])
    except KeyError as missing:
        raise BaseModelError(f"{path / 'config.json'} has no {missing}.", hint=_AGAIN) from missing
    return ModelDirectory(path, config, raw, files)


def _weight_files(path: Path) -> tuple[Path, ...]:
    index = path / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise BaseModelError(f"{index} points outside the model's directory: {outside[0]!r}.", hint=_AGAIN)
        missing = [name for name in names if not (path / name).exists()]
        if missing or not names:
            raise BaseModelError(
                f"{path} lacks the weight file {missing[0] if missing else '*.safetensors'}.", hint=_AGAIN
            )
        return tuple(path / name for name in names)
    if (path / "model.safetensors").exists():
        return (path / "model.safetensors",)
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise BaseModelError(
            f"{path} has its weights only as a pickle ({pickles[0]}), which can run code when it is read.",
            hint="Convert it on a machine you trust: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW).",
        )
    raise BaseModelError(f"{path} has no model.safetensors.", hint="Give a complete Hugging Face model directory.")


def _open(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise BaseModelError(f"{path} is damaged or cut short: {error}.", hint=_AGAIN) from error


def _config(path: Path, raw: Mapping[str, Any], architecture: str) -> DecoderConfig:
    if raw.get("hidden_act", "silu") != "silu":
        raise BaseModelError(f"{path}: the activation {raw['hidden_act']!r} is not supported.", hint="Supported: silu.")
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    attention_bias = bool(raw.get("attention_bias", False))
    qwen2 = architecture == "Qwen2ForCausalLM"
    rope = _rope(path, raw)
    return DecoderConfig(
        architecture=architecture,
        vocab_size=raw["vocab_size"],
        hidden_size=hidden,
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or (128 if architecture == "Qwen3ForCausalLM" else hidden // heads),
        intermediate_size=raw["intermediate_size"],
        max_positions=_context(raw, architecture),
        rms_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.pop("rope_theta")),
        rope_scaling=rope,
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=qwen2 or attention_bias,
        o_bias=attention_bias and not qwen2,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=architecture == "Qwen3ForCausalLM",
    )


def _context(raw: Mapping[str, Any], architecture: str) -> int:
    longest = int(raw["max_position_embeddings"])
    window = raw.get("sliding_window")
    slides = architecture == "MistralForCausalLM" or bool(raw.get("use_sliding_window"))
    return min(longest, int(window)) if window and slides else longest


def _rope(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Old configs have rope_theta and rope_scaling, new ones rope_parameters; every length is filled in here."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise BaseModelError(f"{path} rotates only a part of each head, which is not supported.")
    original = raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    rope["original_max_position_embeddings"] = original or raw["max_position_embeddings"]
    if rope["rope_type"] == "yarn" and rope.get("factor") is None:
        rope["factor"] = raw["max_position_embeddings"] / rope["original_max_position_embeddings"]
    return rope


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} cannot be read: {error}.", hint=_AGAIN) from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} is not a JSON object.", hint=_AGAIN)
    return value


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
