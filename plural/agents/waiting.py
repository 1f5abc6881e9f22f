"""What ends a run for now, when a person has to answer first."""

from __future__ import annotations

from plural.types import Question


class Waiting(BaseException):
    """A person has to answer first; the question is in the journal. Not an error: only the run itself may catch it."""

    def __init__(self, question: Question) -> None:
        super().__init__(question.text)
        self.question = question
