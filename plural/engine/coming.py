"""How an adapter comes into an engine's pages, and what is kept of it outside of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from plural.engine.kernels.interface import AdapterWeights, Kernels, Packed
from plural.engine.kernels.pages import KeptPages, Pages, Parcel
from plural.errors import SpecialistError
from plural.models.config import MODULES
from plural.models.decoder import Decoder


class Coming:
    """Implements `adapter_pool.Machine`. `adapters` gives the weights of a digest, or raises."""

    def __init__(
        self, adapters: Callable[[str], AdapterWeights], kernels: Kernels, decoder: Decoder, memory: Pages
    ) -> None:
        self._adapters, self._kernels, self._decoder, self._memory = adapters, kernels, decoder, memory

    def load(self, digest: str) -> Parcel:
        weights = self._adapters(digest)
        self._fit(weights)
        parcel = self._kernels.pack(self._decoder.config, weights, self._memory.page_bytes, self._decoder.dtype)
        weights.check()
        return replace(parcel, check=weights.check)

    def _fit(self, weights: AdapterWeights) -> None:
        """Raises SpecialistError for an adapter that is of another base, or of nothing at all."""
        config, digest = self._decoder.config, weights.digest[:12]
        if not weights.tensors:
            raise SpecialistError(
                f"Adapter {digest} changes no linear of the base.", hint="It would be served as the base."
            )
        for (layer, module), (a_RI, b_OR) in weights.tensors.items():
            if module not in MODULES or not 0 <= layer < config.num_layers:
                raise SpecialistError(f"Adapter {digest} is of {module} in layer {layer}, which the base has not.")
            held, wanted = (a_RI.shape[1], len(b_OR)), (config.in_features(module), config.out_features(module))
            if held != wanted or len(a_RI) != b_OR.shape[1]:
                raise SpecialistError(
                    f"Adapter {digest} has {a_RI.shape} and {b_OR.shape} for {module} in layer {layer}; the base's has "
                    f"{wanted[0]} inputs and {wanted[1]} outputs."
                )

    def place(self, parcel: Parcel, pages: Sequence[int]) -> Packed:
        parcel.check()
        packed = self._kernels.place(parcel, self._memory, pages)
        parcel.check()
        return packed

    def keep(self, pages: Sequence[int]) -> KeptPages:
        return KeptPages(self._memory, pages)

    def bring_back(self, packed: Packed, copy: KeptPages, pages: Sequence[int]) -> Packed:
        return self._kernels.moved(packed, self._memory, copy.lay(pages))
