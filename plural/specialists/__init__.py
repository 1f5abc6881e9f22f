"""A specialist as data: an adapter in PEFT's directory format and a card. No torch."""

from plural.specialists.adapter import AdapterConfig, AdapterWeights, invoked_at
from plural.specialists.card import Card, Contract, Lineage
from plural.specialists.library import Library, Specialist, check_name
from plural.specialists.peft_files import adapter_digest, read_adapter, read_invocation, write_adapter
from plural.specialists.shape import BaseShape

__all__ = [
    "AdapterConfig",
    "AdapterWeights",
    "BaseShape",
    "Card",
    "Contract",
    "Library",
    "Lineage",
    "Specialist",
    "adapter_digest",
    "check_name",
    "invoked_at",
    "read_adapter",
    "read_invocation",
    "write_adapter",
]
