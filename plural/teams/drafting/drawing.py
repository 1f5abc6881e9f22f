"""A draft as a picture: its steps in mermaid, who does each, and what builds on what."""

from __future__ import annotations

from plural.teams.drafting.drafts import Draft

_LONGEST = 60  # characters of a task in the picture


def mermaid(draft: Draft) -> str:
    lines = ["flowchart TD"]
    for number, step in enumerate(draft.steps, start=1):
        task = step.task if len(step.task) <= _LONGEST else f"{step.task[:_LONGEST]}..."
        label = f"{number}. {' + '.join(step.agents)}: {_quoted(task)}"
        lines.append(f'    s{number}{{{{"{label}"}}}}' if step.together else f'    s{number}["{label}"]')
        lines += [f"    s{earlier} --> s{number}" for earlier in step.inputs]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
