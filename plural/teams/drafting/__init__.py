"""Drafting: the team and the plan for a task, made by a planner, looked at by observers, carried out as a pattern."""

from __future__ import annotations

from plural.teams.drafting.drafts import (
    GENERAL,
    Allowance,
    Draft,
    DraftedAgent,
    DraftedStep,
    Fault,
    Missing,
    Sizes,
    Ways,
)
from plural.teams.drafting.drawing import mermaid
from plural.teams.drafting.file import from_yaml, read_team, to_yaml, write_team
from plural.teams.drafting.planning import draft
from plural.teams.drafting.routed import draft_by_specialist
from plural.teams.drafting.staff import Staff, check, team_of
from plural.teams.drafting.working import carry_out

__all__ = [
    "GENERAL",
    "Allowance",
    "Draft",
    "DraftedAgent",
    "DraftedStep",
    "Fault",
    "Missing",
    "Sizes",
    "Staff",
    "Ways",
    "carry_out",
    "check",
    "draft",
    "draft_by_specialist",
    "from_yaml",
    "mermaid",
    "read_team",
    "team_of",
    "to_yaml",
    "write_team",
]
