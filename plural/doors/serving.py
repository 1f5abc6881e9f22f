"""The commands that put the network on the wire: the server, and who may ask it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from plural.doors.terminal import (
    BaseOption,
    DtypeOption,
    EngineOption,
    JsonOption,
    LibraryOption,
    MemoryOption,
    err,
    open_network,
    out,
)

KeysOption = Annotated[
    Path | None, typer.Option(help="The file of hashed API keys. Default: ~/.local/share/plural/keys.json.")
]


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1; any that is not loopback needs a key.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8000; 0 takes a free one.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="PLURAL_SERVE_API_KEY",
            show_envvar=True,
            help="One key that may do everything. Others can see an option in the list of processes: better in the "
            "environment, or made by plural keys add.",
        ),
    ] = None,
    keys: KeysOption = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that clients call the server by, besides localhost.")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(metavar="NAME=MODEL", help="One more name that a model is asked by.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="An origin whose web pages may call it (CORS).")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    max_inside: Annotated[
        int | None, typer.Option(help="Answers worked on or waiting at once; more get a 429. Default: 128.")
    ] = None,
    max_per_key: Annotated[int | None, typer.Option(help="The same for each API key. Default: none.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a whole answer may take. Default: 600.")] = None,
    drain: Annotated[
        int | None, typer.Option(help="Seconds that answers under way get after SIGTERM or Ctrl-C. Default: 30.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of stored answers and uploaded files. Default: ~/.local/share/plural/server."),
    ] = None,
    offer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="An agent or a team of yours, served under its name, or a tool that teams may use; or a function "
            "that makes them of the network.",
        ),
    ] = None,
    run_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a run may be worked on. Default: 3600.")
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(
            envvar="PLURAL_JOURNAL",
            help="Where runs are written: an SQLite file, a database's URL, or none. Default: journal.db in --data.",
        ),
    ] = None,
    base: BaseOption = None,
    library: LibraryOption = None,
    memory: MemoryOption = None,
    dtype: DtypeOption = None,
    engine: EngineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the network on the wire: OpenAI-compatible HTTP, for any client that takes a base URL."""
    from plural.wiring import serving

    given = {
        "host": host, "port": port, "api_key": api_key, "keys": keys, "hosts": tuple(allow_host or ()) or None,
        "aliases": serving.read_aliases(alias or ()) or None, "origins": tuple(allow_origin or ()) or None,
        "tls_cert": tls_cert, "tls_key": tls_key,
        "max_inside": max_inside, "max_per_key": max_per_key, "timeout": timeout, "drain": drain, "data": data,
        "run_timeout": run_timeout,
    }  # fmt: skip
    order = serving.read_order(given)  # what is wrong is said before the base is read

    def told(address: str) -> None:
        if as_json:
            print(json.dumps({"listening": address}), flush=True)
        else:
            studio = ("; the studio is at ", (address, "bold"))
            err.print(Text.assemble("Plural listens on ", (f"{address}/v1", "bold"), *studio, ". Ctrl-C ends it."))

    where = order.journal(journal)
    with open_network(base, library, memory=memory, dtype=dtype, engine=engine, journal=where) as network:
        serving.serve(network, order, told, offers=offer or ())


def add_key(
    scope: Annotated[
        list[str] | None, typer.Option(help="use, train or admin; once for each. Default: use.", show_default=False)
    ] = None,
    note: Annotated[str, typer.Option(help="Whose it is.")] = "",
    keys: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key. It is shown now and never again: only its hash is kept."""
    from plural.wiring.serving import add_key

    secret, key = add_key(keys, scope or ["use"], note)
    if as_json:
        print(json.dumps({"key": secret, "id": key.id, "scopes": key.scopes}))
        return
    err.print(f"Key {key.id}, for {', '.join(key.scopes)}. It is not shown again:")
    out.print(secret, markup=False, soft_wrap=True)


def list_keys(keys: KeysOption = None, as_json: JsonOption = False) -> None:
    """List the API keys, by their ids."""
    from plural.wiring.serving import list_keys

    found = list_keys(keys)
    if as_json:
        for key in found:
            print(key.model_dump_json(exclude={"sha256"}))
        return
    table = Table("id", "may", "made", "note", box=None, header_style="bold")
    for key in found:
        table.add_row(key.id, ", ".join(key.scopes), f"{key.created:%Y-%m-%d}", Text(key.note))
    out.print(table)


def remove_key(
    key: Annotated[str, typer.Argument(metavar="ID", help="As plural keys list shows it.")], keys: KeysOption = None
) -> None:
    """Take an API key back. A running server refuses it at once."""
    from plural.wiring.serving import remove_key

    remove_key(keys, key)
    out.print(f"Key {key} is gone.")


keys_app = typer.Typer(help="API keys of the server: add, list, remove.", no_args_is_help=True)
keys_app.command(name="add")(add_key)
keys_app.command(name="list")(list_keys)
keys_app.command(name="remove")(remove_key)
