"""Examples in, adapter out: supervised fine-tuning of one LoRA on the frozen decoder."""

from plural.train.data import Example, Examples, read_examples
from plural.train.events import Evaluated, Stepped, Trained, TrainEvent, TrainStarted
from plural.train.settings import TrainSettings
from plural.train.trainer import train

__all__ = [
    "Evaluated",
    "Example",
    "Examples",
    "Stepped",
    "TrainEvent",
    "TrainSettings",
    "TrainStarted",
    "Trained",
    "read_examples",
    "train",
]
