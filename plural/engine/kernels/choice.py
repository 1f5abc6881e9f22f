"""Which kernels an engine computes with."""

from __future__ import annotations

import importlib.util
import logging

import torch

from plural.engine.kernels.frame import NARROW
from plural.engine.kernels.interface import Kernels
from plural.engine.kernels.native import NativeKernels, why_not
from plural.engine.kernels.packing import Kind
from plural.engine.kernels.torch_kernels import TorchKernels
from plural.engine.settings import EngineSettings
from plural.errors import SettingsError
from plural.models.decoder import Decoder

_log = logging.getLogger(__name__)

_KINDS = {"auto": None, "fp32": Kind.FP32, "bf16": Kind.BF16, "int8": Kind.INT8, "q4": Kind.Q4}


def best_kernels(decoder: Decoder, settings: EngineSettings) -> Kernels:
    """Native kernels or Triton's where they can run the decoder, torch elsewhere, in fp32.

    Raises SettingsError when `settings.dtype` asks for what the kernels that are there cannot do.
    """
    if decoder.device.type == "cuda":
        reason = why_no_triton(decoder)
        if reason is None and settings.dtype in ("auto", "fp32", "bf16"):
            from plural.engine.kernels.triton_kernels import TritonKernels

            return TritonKernels(half=settings.dtype == "bf16")
        if reason is None:
            raise SettingsError(f"dtype {settings.dtype} is for the CPU.", hint="On a GPU use fp32, bf16 or auto.")
    else:
        reason = why_not(decoder)
        if reason is None:
            return NativeKernels(_KINDS[settings.dtype], settings.threads)
    if settings.dtype not in ("auto", "fp32"):
        needed = "Triton's kernels" if decoder.device.type == "cuda" else "the native kernels"
        raise SettingsError(f"dtype {settings.dtype} needs {needed}, and {reason}.", hint="Use fp32, or auto.")
    _log.info("computing with torch: %s", reason)
    return TorchKernels()


def triton_is_there() -> bool:
    """Triton comes with torch for GPUs, and is imported only where there is one."""
    return importlib.util.find_spec("triton") is not None


def why_no_triton(decoder: Decoder) -> str | None:
    """Why Triton's kernels cannot run this decoder on its GPU; None when they can."""
    config = decoder.config
    if not triton_is_there():
        return "triton is not installed"
    if decoder.dtype != torch.float32:
        return f"the weights are {decoder.dtype}, not fp32"
    if torch.cuda.get_device_capability(decoder.device) < (7, 0):
        return f"{torch.cuda.get_device_name(decoder.device)} is older than what triton compiles for"
    if config.num_heads // config.num_kv_heads > NARROW:
        return f"{config.num_heads // config.num_kv_heads} query heads share a KV head, more than {NARROW}"
    return None
