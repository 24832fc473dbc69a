"""The operator's words of the command line: `halt`, `reduce`, `resume-trading`, `audit`. Parses only.

`halt` writes the file `HALT` before anything heavy is imported: no order waits for that.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["WORDS", "app"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Stop trading, let it go on, and see what was done.",
)

WORDS = ("halt", "reduce", "resume-trading", "audit")

_Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the audit log.")]
_Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of databases and reports (HOLDFAST_HOME; default ~/.holdfast).")
]
_Database = Annotated[
    str | None, typer.Option("--database", metavar="URL", help="A Postgres database in place of the home's own file.")
]
_Config = Annotated[Path | None, typer.Option("--config", help="Settings file (default: holdfast.toml in the home).")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, and nothing else.")]


@app.command()
def halt(
    *,
    reason: _Reason,
    flatten: Annotated[
        bool, typer.Option("--flatten", help="Close all positions by market orders before, under REDUCING.")
    ] = False,
    home: _Home = None,
    database: _Database = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Halt trading: no order goes, and what rests at the broker is cancelled. Works without settings or a database."""
    why = _words(reason)
    if not flatten:
        _halt_at_once(home, config, why)
    _execute("halt", why, flatten=flatten, home=home, database=database, config=config, json=as_json)


@app.command()
def reduce(
    *,
    reason: _Reason,
    home: _Home = None,
    database: _Database = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Let only orders go that close a position. A halt stays."""
    _execute("reduce", _words(reason), home=home, database=database, config=config, json=as_json)


@app.command()
def resume_trading(
    *,
    reason: _Reason,
    reducing: Annotated[bool, typer.Option("--reducing", help="Let only orders go that close a position.")] = False,
    home: _Home = None,
    database: _Database = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Let orders go again, and accept the differences to the broker's books that there are."""
    why = _words(reason)
    _execute("resume-trading", why, reducing=reducing, home=home, database=database, config=config, json=as_json)


@app.command()
def audit(
    what: Annotated[str, typer.Argument(metavar="verify", help="Look for entries that are not as written.")] = "list",
    home: _Home = None,
    database: _Database = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """List the audit log, or verify it: nothing was changed, removed or added."""
    if what not in {"list", "verify"}:
        _refuse(f"audit can list and verify, not {what!r:.40}")
    verb = "audit" if what == "list" else "audit-verify"
    _execute(verb, "", home=home, database=database, config=config, json=as_json)


def _halt_at_once(home: Path | None, config: Path | None, why: str) -> None:
    from agents.clock import SystemClock  # noqa: PLC0415 - the words are parsed without any of this
    from agents.domain import KillSwitchReason  # noqa: PLC0415
    from agents.errors import StorageError  # noqa: PLC0415
    from checkpoints.halt_file import Halt, HaltFile, home_folder, user_name  # noqa: PLC0415

    asked = Halt(KillSwitchReason.OPERATOR, user_name(os.getuid()), why, SystemClock().now_ns())
    try:
        HaltFile(home_folder(home, config)).write(asked)
    except StorageError as error:
        typer.echo(f"warning: {error}; the database is tried now", err=True)


def _execute(verb: str, subject: str, *, home: Path | None, database: str | None, **more: Any) -> None:
    from graph.command import Command, execute  # noqa: PLC0415 - everything heavy starts here

    raise typer.Exit(execute(Command(verb, subject, flags={"home": home, "database": database}, **more)))


def _words(reason: str) -> str:
    """As it can be kept anywhere: on one line, and not endless."""
    words = " ".join(reason.encode(errors="replace").decode().replace("\0", " ").split())[:1_000]
    if not words:
        _refuse("--reason is empty; nothing was changed; say why")
    return words


def _refuse(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)
