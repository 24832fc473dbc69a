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
    resume: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with a run, by its id or the id of one of its checkpoints.")
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="List the runs of this home.")] = False,
    checkpoints: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="List a run's checkpoints, and the node each stands before.")
    ] = None,
    workflows: Annotated[bool, typer.Option("--workflows", help="List the workflows.")] = False,
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
    config: Annotated[Path | None, typer.Option(help="Settings file (default: holdfast.toml in the home).")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live view.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, and nothing else.")] = False,
) -> None:
    """Holdfast: fault-tolerant agentic trading workflows, resumable after any crash."""
    asked = {"--workflow": workflow, "--resume": resume, "--runs": runs, "--checkpoints": checkpoints}
    chosen = [name for name, value in (asked | {"--workflows": workflows}).items() if value not in {None, False}]
    if len(chosen) != 1:
        given = " and ".join(chosen) or "none"
        _refuse(f"give exactly one of --workflow, --resume, --runs, --checkpoints and --workflows, not {given}")
    market_flags = {"--symbol": symbol, "--data": data, "--seed": seed}
    misplaced = [name for name, value in market_flags.items() if value not in (None, []) and not workflow]
    if misplaced:
        _refuse(f"{misplaced[0]} goes with --workflow only: what exists already carries its own market")
    if data and seed is not None:
        _refuse("--seed is of the simulated market, and --data is not simulated: give one of them")
    for name, value in {"--inject": inject, "--faults": faults}.items():
        if value and not (workflow or resume):
            _refuse(f"{name} goes with --workflow or --resume only: nothing else runs an agent")
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
        subject=workflow or resume or checkpoints or "",
        symbols=tuple(symbol or ()),
        data=tuple(data or ()),
        seed=7 if seed is None else seed,
        inject=tuple(inject or ()),
        faults=faults,
        fault_seed=fault_seed,
        config=config,
        flags={"home": home, "concurrency": concurrency, "calendar": calendar},
        plain=plain,
        json=as_json,
    )
    raise typer.Exit(execute(command))


def _refuse(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


_UsageError: Any = typer.BadParameter.__base__  # click's, or that of the copy of click in newer typers


def main() -> None:
    """Entry point of the console script. A usage error is one line, as every other error is."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until the workflow takes them over, there is nothing to save
        signal.signal(number, lambda *_: os._exit(3))
    try:
        code = app(standalone_mode=False)
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
