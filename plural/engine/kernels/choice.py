"""Which kernels an engine computes with."""

from __future__ import annotations

import logging

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
    """Native kernels where they can run the decoder, torch elsewhere, in fp32.

    Raises SettingsError when `settings.dtype` asks for what only native kernels can do and there are none.
    """
    reason = why_not(decoder)
    if reason is None:
        return NativeKernels(_KINDS[settings.dtype], settings.threads)
    if settings.dtype not in ("auto", "fp32"):
        raise SettingsError(
            f"dtype {settings.dtype} needs the native kernels, and {reason}.", hint="Use fp32, or auto."
        )
    _log.info("computing with torch: %s", reason)
    return TorchKernels()
