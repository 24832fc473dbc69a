"""The command line: `python -m graph.run`, installed as `holdfast`. Parses only; the work is in `graph/command.py`.

Nothing heavy is imported here, so that `--help` and usage errors answer at once.
"""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from graph import control_line

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

_EXAMPLES = """\b
Examples:
  python -m graph.run --workflow trade                                  a simulated market, no key, no network
  python -m graph.run --workflow trade --symbol GOOG --data goog.csv    your own bars (CSV or Parquet)
  python -m graph.run --workflow trade --symbol A --symbol B --seed 3   several runs at once
  python -m graph.run --workflow trade --inject strategy=kill           die inside a node ...
  python -m graph.run --runs                                            ... see what was interrupted ...
  python -m graph.run --resume RUN_OR_CHECKPOINT_ID                     ... and go on where it was
  python -m graph.run --fork CHECKPOINT_ID --config other.toml          what if: from the same state, sending nothing
  python -m graph.run --workflow session --duration 10m --speed 60      trade on paper, bar after bar, for ten minutes
  python -m graph.run --prune --keep 7d                                 delete what was saved of runs that ended

\b
Stop trading, and let it go on (each with --help; halt works even while another process runs, or nothing else does):
  python -m graph.run halt --reason TEXT [--flatten]     no order goes; what rests at the broker is cancelled
  python -m graph.run reduce --reason TEXT               only orders go that close a position
  python -m graph.run resume-trading --reason TEXT       orders go again
  python -m graph.run audit [verify]                     who did that, when and why; verify looks for what was changed

\b
Exit codes: 0 finished, whatever the decision; 1 failed; 2 bad usage or input; 3 stopped and resumable.
"""


@app.command(epilog=_EXAMPLES, no_args_is_help=True)
def run(  # noqa: PLR0917 - the parameters are the command line
    workflow: Annotated[str | None, typer.Option(help="Run this workflow; --workflows lists them.")] = None,
    symbol: Annotated[list[str] | None, typer.Option(metavar="SYMBOL", help="What to decide on; repeat it.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Bars as CSV or Parquet: one file a --symbol, or a folder of SYMBOL.csv."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the simulated market, where no --data is given (default 7).")
    ] = None,
    feed: Annotated[
        str | None,
        typer.Option(metavar="FEED", help="Prices of a session: sim (default), replay:FILE or ws:URL of an exchange."),
    ] = None,
    duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long a session lasts: 90s, 10m, 8h, 1d.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="How fast a session's time goes, with sim and replay: 60 is a minute a second.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with a run, by its id or the id of one of its checkpoints.")
    ] = None,
    fork: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Go on from a saved state in a new run that sends no order; --config changes settings."
        ),
    ] = None,
    orders: Annotated[bool, typer.Option("--orders", help="Let the fork place orders.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="List the runs of this home, forks under their origin.")] = False,
    show: Annotated[str | None, typer.Option(metavar="RUN_ID", help="Tell all of a run, and do not touch it.")] = None,
    checkpoints: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="List a run's checkpoints, and the node each stands before.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the saved states of runs that ended; orders are always kept.")
    ] = False,
    keep: Annotated[
        str | None, typer.Option(metavar="AGE", help="With --prune: of what ended longer ago than 30m, 12h, 7d, 2w.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --prune: say what would go.")] = False,
    export: Annotated[str | None, typer.Option(metavar="RUN_ID", help="Write a run to a file.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="With --export: a new file.")] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Take a run from a file, to look at and to fork.")
    ] = None,
    workflows: Annotated[bool, typer.Option("--workflows", help="List the workflows.")] = False,
    limits: Annotated[bool, typer.Option("--limits", help="List the risk limits, and where each comes from.")] = False,
    activate: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="Let trading go on after a recovery that left it REDUCING, and say why."),
    ] = None,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET=FAULT",
            help="Make a node, analyst or the broker fail: kill, error, hang, latency:SECONDS, corrupt.",
        ),
    ] = None,
    faults: Annotated[
        Path | None, typer.Option(metavar="PLAN.TOML", help="Faults from a file, besides those of --inject.")
    ] = None,
    fault_seed: Annotated[
        int | None, typer.Option(help="Seed of faults with a rate (default: that of the file, or 0).")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Runs at the same time (default 8).")] = None,
    calendar: Annotated[
        str | None, typer.Option(help="Trading hours: 24/7, 24/5, an exchange such as XNYS, or auto (default).")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder of databases and reports (HOLDFAST_HOME; default ~/.holdfast).")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A Postgres database in place of the home's own file (HOLDFAST_DATABASE): postgresql://user@host/name.",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file (default: holdfast.toml in the home).")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live view.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, and nothing else.")] = False,
) -> None:
    """Holdfast: fault-tolerant agentic trading workflows, resumable after any crash."""
    asked: dict[str, Any] = {"--workflow": workflow, "--resume": resume, "--fork": fork, "--runs": runs, "--show": show}
    asked |= {"--checkpoints": checkpoints, "--prune": prune, "--export": export, "--import": import_}
    asked |= {"--workflows": workflows, "--activate": activate, "--limits": limits}
    chosen = [name for name, value in asked.items() if value not in {None, False}]
    if len(chosen) != 1:
        given = " and ".join(chosen) or "none"
        names = f"{', '.join(list(asked)[:-1])} and {list(asked)[-1]}"
        _refuse(f"give exactly one of {names}, not {given}")
    market_flags = {"--symbol": symbol, "--data": data, "--seed": seed}
    misplaced = [name for name, value in market_flags.items() if value not in (None, []) and not workflow]
    if misplaced:
        _refuse(f"{misplaced[0]} goes with --workflow only: what exists already carries its own market")
    if data and seed is not None:
        _refuse("--seed is of the simulated market, and --data is not simulated: give one of them")
    of_session = {"--feed": feed, "--duration": duration, "--speed": speed}
    strays = [name for name, value in of_session.items() if value is not None and workflow != "session"]
    if strays:
        _refuse(f"{strays[0]} goes with --workflow session only")
    if data and workflow == "session":
        _refuse(f"--data goes with --workflow trade; a session replays a file by --feed replay:{data[0]}")
    for name, value in {"--inject": inject, "--faults": faults}.items():
        if value and not (workflow or resume or fork):
            _refuse(f"{name} goes with --workflow, --resume or --fork only: nothing else runs an agent")
    _refuse_misplaced(chosen[0], {"--orders": orders, "--keep": keep, "--dry-run": dry_run, "--to": to})
    if fault_seed is not None and not (inject or faults):
        _refuse("--fault-seed goes with --inject or --faults only: there are no faults to draw")
    # Importing makes a hundred thousand objects that all stay: looking for garbage among them costs a tenth of the
    # start, and looking at them ever again costs pauses later.
    gc.disable()
    from graph.command import Command, execute  # noqa: PLC0415 - everything heavy starts here

    gc.freeze()
    gc.enable()

    command = Command(
        verb=chosen[0].removeprefix("--"),
        subject=workflow or resume or fork or show or checkpoints or export or str(import_ or "") or activate or "",
        symbols=tuple(symbol or ()),
        data=tuple(data or ()),
        seed=7 if seed is None else seed,
        inject=tuple(inject or ()),
        faults=faults,
        fault_seed=fault_seed,
        config=config,
        flags={"home": home, "database": database, "concurrency": concurrency, "calendar": calendar},
        plain=plain,
        json=as_json,
        orders=orders,
        keep=keep or "",
        dry_run=dry_run,
        to=to,
        feed=feed or "sim",
        duration=duration,
        speed=1.0 if speed is None else speed,
    )
    raise typer.Exit(execute(command))


_OF = {"--orders": "--fork", "--keep": "--prune", "--dry-run": "--prune", "--to": "--export"}
_NEEDS = {
    "--prune": ("--keep", "AGE, such as 7d: what ended longer ago goes"),
    "--export": ("--to", "FILE: where the run is written"),
}


def _refuse_misplaced(verb: str, given: dict[str, Any]) -> None:
    """Some options are of one verb, and some verbs need one."""
    for name, value in given.items():
        if value not in {None, False} and _OF[name] != verb:
            _refuse(f"{name} goes with {_OF[name]} only")
    needed, what = _NEEDS.get(verb, ("", ""))
    if needed and given[needed] is None:
        _refuse(f"{verb} needs {needed} {what}")


def _refuse(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


_UsageError: Any = typer.BadParameter.__base__  # click's, or that of the copy of click in newer typers


def main() -> None:
    """Entry point of the console script. A usage error is one line, as every other error is."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # it waits for a workflow that can heed it
    for number in (signal.SIGINT, signal.SIGTERM):  # until the workflow takes them over, there is nothing to save
        signal.signal(number, lambda *_: os._exit(3))
    try:
        words = sys.argv[1:] and sys.argv[1] in control_line.WORDS
        code = (control_line.app if words else app)(standalone_mode=False)
    except _UsageError as error:
        if len(sys.argv) == 1:
            error.show()  # nothing was asked for: this is the help
        else:
            typer.echo(f"error: {' '.join(error.format_message().split())}", err=True)
        code = error.exit_code
    except typer.Abort:  # Ctrl-C before anything was started
        code = 3
    sys.exit(code)


if __name__ == "__main__":
    main()
