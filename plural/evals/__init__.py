"""Tasks, checkers and scorecards over anything that answers. No torch, no HTTP."""

from plural.evals.answerers import ChatAnswerer
from plural.evals.calibration import calibration_error, fit_temperature
from plural.evals.checkers import CHECKERS, checker
from plural.evals.scorecard import RowResult, ScoreCard, interval, score
from plural.evals.task import Row, Task

__all__ = [
    "CHECKERS",
    "ChatAnswerer",
    "Row",
    "RowResult",
    "ScoreCard",
    "Task",
    "calibration_error",
    "checker",
    "fit_temperature",
    "interval",
    "score",
]
