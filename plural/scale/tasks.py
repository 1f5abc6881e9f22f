"""What runs beside the replicas as Ray tasks: long tools, and trainings."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from langchain_core.tools import BaseTool

from plural.agents.marks import send_long_tools as _send
from plural.errors import MachineError, PluralError, ToolError
from plural.scale.cluster import ray_module
from plural.serve.backend import Lesson, News


def send_long_tools() -> None:
    """Tools that are marked `long` run as tasks on the cluster that this process has joined."""
    _send(_away)


async def _away(tool: BaseTool, request: Mapping[str, Any]) -> Any:
    """One try. Ray repeats none: whether a tool may run twice is said by its marks."""
    ray = ray_module()
    try:
        reference = ray.remote(num_cpus=1, max_retries=0)(_called).remote(tool, dict(request))
    except (TypeError, AttributeError, ValueError) as error:
        raise ToolError(
            f"The long tool {tool.name!r} cannot be sent to another process: {error}.",
            hint="Let it hold nothing open (files, connections, locks), or do not mark it long.",
        ) from error
    try:
        made = await reference
    except asyncio.CancelledError:
        ray.cancel(reference, force=True)
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise ConnectionError(f"the process that {tool.name} ran in was lost") from error
    if isinstance(made, Exception):
        raise made
    return made


def _called(tool: BaseTool, request: dict[str, Any]) -> Any:
    """In the task. What the tool raises is its result: Ray would put its own traceback into the message."""
    os.environ.pop("PLURAL_CLUSTER", None)
    try:
        return asyncio.run(tool.ainvoke(request))
    except Exception as error:  # noqa: BLE001 - it is the caller's
        return error


def train_away(settings: Mapping[str, Any], lesson: Lesson, cpus: int) -> Iterator[News]:
    """The training's news, from a task that has a network of its own. Leaving the iterator ends it.

    The lesson's rows travel; the specialist is published in the library of `settings`, which all nodes must see. Raises
    what the training raises, and MachineError when its node is lost: an interrupted training goes on with `resume`.
    """
    ray = ray_module()
    rows = {file: file.read_bytes() for file in (lesson.data, lesson.test) if file is not None}
    task = ray.remote(num_cpus=cpus, max_retries=0, num_returns="streaming")(_trained)
    news = task.remote(dict(settings), lesson, rows)
    try:
        for reference in news:
            said = ray.get(reference)
            if isinstance(said, PluralError):
                raise said
            yield cast(News, said)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        raise MachineError("The node that trained was lost.", hint="Start the job again: it goes on.") from error
    finally:
        ray.cancel(news)


def _trained(
    settings: dict[str, Any], lesson: Lesson, rows: Mapping[Path, bytes]
) -> Generator[News | PluralError, None, None]:
    os.environ.pop("PLURAL_CLUSTER", None)
    from plural.wiring.network import Network
    from plural.wiring.serving import ServedNetwork

    with tempfile.TemporaryDirectory(prefix="plural-lesson-") as folder:
        here = {file: Path(folder) / f"{number}-{file.name}" for number, file in enumerate(rows)}
        for file, content in rows.items():
            here[file].write_bytes(content)
        moved = replace(lesson, data=here[lesson.data], test=here[lesson.test] if lesson.test else None)
        try:
            with Network.open(**settings) as network:
                yield from ServedNetwork(network).train(moved)
        except PluralError as error:
            yield error
