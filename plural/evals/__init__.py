"""Tasks, checkers and scorecards over anything that answers. No torch, no HTTP."""

from plural.evals.answerers import ChatAnswerer, to_langchain
from plural.evals.calibration import calibration_error, fit_temperature
from plural.evals.checkers import CHECKERS, checker
from plural.evals.contracts import Answer, Learned, answers, broken, learn, read_contract
from plural.evals.exercises import Exercises, read_exercises
from plural.evals.leaks import Fingerprint, Leak, refuse
from plural.evals.scorecard import RowResult, ScoreCard, interval, score
from plural.evals.task import Row, Task

__all__ = [
    "CHECKERS",
    "Answer",
    "ChatAnswerer",
    "Exercises",
    "Fingerprint",
    "Leak",
    "Learned",
    "Row",
    "RowResult",
    "ScoreCard",
    "Task",
    "answers",
    "broken",
    "calibration_error",
    "checker",
    "fit_temperature",
    "interval",
    "learn",
    "read_contract",
    "read_exercises",
    "refuse",
    "score",
    "to_langchain",
]
