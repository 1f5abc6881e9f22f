"""The only room that knows everything: reads settings once, builds the others, connects them."""

from plural.wiring.doctor import Finding, examine
from plural.wiring.network import Answer, Conversation, EventStream, Network
from plural.wiring.settings import Settings, open_library
from plural.wiring.training import Stage, TrainOrder, train_specialist

__all__ = [
    "Answer",
    "Conversation",
    "EventStream",
    "Finding",
    "Network",
    "Settings",
    "Stage",
    "TrainOrder",
    "examine",
    "open_library",
    "train_specialist",
]
