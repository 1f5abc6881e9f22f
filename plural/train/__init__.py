"""Examples or preferences in, adapters out: fine-tuning of many LoRAs at once on the one frozen decoder."""

from plural.train.course import Course
from plural.train.data import Example, Examples, read_examples
from plural.train.events import (
    Diverged,
    Evaluated,
    Halved,
    Stepped,
    Swept,
    Trained,
    TrainEvent,
    TrainStarted,
    Tried,
)
from plural.train.settings import PassSettings, TrainSettings
from plural.train.trainer import train

__all__ = [
    "Course",
    "Diverged",
    "Evaluated",
    "Example",
    "Examples",
    "Halved",
    "PassSettings",
    "Stepped",
    "Swept",
    "TrainEvent",
    "TrainSettings",
    "TrainStarted",
    "Trained",
    "Tried",
    "read_examples",
    "train",
]
