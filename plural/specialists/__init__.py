"""A specialist as data: an adapter in PEFT's directory format and a card. No torch."""

from plural.specialists.adapter import AdapterConfig, AdapterWeights, invoked_at
from plural.specialists.card import Card, Contract, Evidence, Lineage, Promotion, Trial
from plural.specialists.library import Library
from plural.specialists.peft_files import adapter_digest, read_adapter, read_invocation, write_adapter
from plural.specialists.shape import BaseShape
from plural.specialists.specialist import Specialist, check_name

__all__ = [
    "AdapterConfig",
    "AdapterWeights",
    "BaseShape",
    "Card",
    "Contract",
    "Evidence",
    "Library",
    "Lineage",
    "Promotion",
    "Specialist",
    "Trial",
    "adapter_digest",
    "check_name",
    "invoked_at",
    "read_adapter",
    "read_invocation",
    "write_adapter",
]
