"""The command that puts the network on a cluster."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from plural.doors.serving import KeysOption
from plural.doors.terminal import BaseOption, DtypeOption, EngineOption, JsonOption, LibraryOption, MemoryOption, err


def deploy(
    ray: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="host:port of a Ray cluster, auto for this machine's, or local."),
    ] = "local",
    replicas: Annotated[
        int | None, typer.Option(help="Engine replicas; with --max-replicas, the fewest. Default: 1.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option(help="The most: their number follows the queues.")] = None,
    cpus: Annotated[int | None, typer.Option(help="CPUs of a replica. Default: 1.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of a replica. Default: none.")] = None,
    spread: Annotated[bool | None, typer.Option("--spread", help="At most one replica on a node.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Any but 127.0.0.1 needs a key.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8000.")] = None,
    keys: KeysOption = None,
    data: Annotated[Path | None, typer.Option(help="Folder of stored answers and uploaded files.")] = None,
    journal: Annotated[
        str | None, typer.Option(envvar="PLURAL_JOURNAL", help="Where runs are written: a database's URL.")
    ] = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
    down: Annotated[bool, typer.Option("--down", help="Take the network off the cluster.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put the network on a Ray cluster: engine replicas, and the HTTP of plural serve before them."""
    from plural.scale import ScaleSettings, deploy, take_down
    from plural.wiring.serving import read_order
    from plural.wiring.settings import read_settings

    scale = ScaleSettings.of(replicas=replicas, max_replicas=max_replicas, cpus=cpus, gpus=gpus, spread=spread)
    if down:
        take_down(ray, scale.patience)
        err.print(f"There is no network on the Ray cluster {ray} any more.")
        return
    order = read_order({"host": host, "port": port, "keys": keys, "data": data})
    settings = read_settings(base=base, library=library, memory=memory, dtype=dtype, engine=engine, journal=journal)
    made = deploy(ray, settings, scale, order)
    if as_json:
        print(json.dumps({"listening": made.url, "replicas": made.replicas}), flush=True)
    else:
        err.print(Text.assemble("Plural listens on ", (f"{made.url}/v1", "bold"), f", with {made.replicas} replicas."))
    if ray == "local":
        _until_stopped()


def _until_stopped() -> None:
    """A cluster that was started here ends with this process."""
    from plural.scale.deploying import stop_local

    err.print("Ctrl-C ends it.")
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    stop_local("local")
