"""Start-up is recovery: damaged files are replaced, and the ledger is compared with the broker's books, before orders.

A file that was replaced by an older backup, or by nothing, has forgotten orders that were sent. From that moment on
trading is REDUCING, until both books have been compared: what only the broker knows is adopted into the ledger, and
when the two agree trading is ACTIVE again. Where they do not, or the broker cannot tell what it executed, it stays
REDUCING, the numbers are shown at every start, and an operator has to say that they are right.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.clock import Clock
from agents.domain import Order, TradingState
from agents.errors import StorageError
from checkpoints.backup import Loss, SafeFile
from checkpoints.database import Database
from checkpoints.trading_state import Trading, be_careful, digits
from graph.comparison import MISMATCH, RESTORED, Comparison, some, told_of
from graph.paper import PaperBroker, PaperTerms
from graph.result import one_line

__all__ = ["LEDGER", "Home", "data_of", "lost_runs", "open_home", "story", "warn"]

LEDGER = "holdfast.db"
"""The main database's file in a home."""


@dataclass(frozen=True, slots=True)
class Home:
    """The databases of a home folder, opened; `losses`: what had to be done to their files.

    `files`: the databases that are files, each with what keeps it safe; a server keeps its own.
    """

    database: Database
    broker: PaperBroker
    files: tuple[tuple[Database, SafeFile], ...]
    losses: tuple[Loss, ...]

    def back_up(self, *, ending: bool = False) -> list[StorageError]:
        """Back up each file of which a backup is due; gives what went wrong. Damage that was met is remembered."""
        wrong = []
        for database, file in self.files:
            if database.damaged:
                file.suspect()
            try:
                file.back_up(ending=ending)
            except StorageError as error:
                wrong.append(error)
        return wrong

    def close(self) -> None:
        """Let go of the files, which are closed before this."""
        for _, file in self.files:
            file.close()


def open_home(
    folder: Path,
    clock: Clock,
    *,
    address: str | Path | None = None,
    terms: PaperTerms | None = None,
    inline: bool = False,
) -> Home:
    """Check and open the ledger's file and the broker's; trading is REDUCING where one of them was replaced.

    `address`: where the ledger is, if not in a file of the folder: the URL of a server. `terms`: the broker's.

    Raises:
        StorageError: the folder or a database in it cannot be used.
    """
    with ExitStack() as undo:
        main, books = address or folder / LEDGER, folder / "broker.db"
        files = []
        for path in (each for each in (main, books) if isinstance(each, Path)):
            files.append(SafeFile.hold(path, clock))
            undo.callback(files[-1].close)
        losses = [loss for file in files if (loss := file.mend()) is not None]
        database = Database.open(main, inline=inline)
        undo.callback(database.close)
        if losses:
            careful = Trading(TradingState.REDUCING, RESTORED, "holdfast", _told(losses), clock.now_ns())
            unaudited = database.write(lambda connection: be_careful(connection, careful))
            if unaudited is not None:
                warn(f"the audit log could not be written ({unaudited}); trading is REDUCING all the same")
        broker = PaperBroker.open(books, clock, terms, inline=inline)
        undo.callback(broker.database.close)
        for file in files:
            file.settled()
        undo.pop_all()
    opened = (database, broker.database)[-len(files) :]
    return Home(database, broker, tuple(zip(opened, files, strict=True)), tuple(losses))


# What is told.


def lost_runs(folder: Path, registered: Collection[str]) -> tuple[str, ...]:
    """Runs that have a folder in the home, and are in the registry no more."""
    try:
        found = {each.name for each in (folder / "runs").iterdir() if each.is_dir()}
    except OSError:
        return ()
    return tuple(sorted(found - set(registered)))


def story(losses: Sequence[Loss], runs: Sequence[str], found: Comparison, now: Trading) -> str:
    """One line of all that a start had to mend; "" where there was nothing."""
    careful = now.state is not TradingState.ACTIVE and now.code in {RESTORED, MISMATCH}
    if not (losses or found.adopted or careful):
        return ""
    parts = [_told(losses)] if losses else []
    if runs:
        parts.append(f"the registry lacks {some(runs, 'run')}")
    if found.adopted:
        parts.append(f"the ledger adopted from the broker {some([_named(each) for each in found.adopted], 'order')}")
    if not found.agrees:
        parts.append(told_of(found))
    elif careful and now.code == MISMATCH:
        parts.append(one_line(now.why))
    if careful and not found.listed:
        parts.append("the broker cannot tell what it executed")
    parts.append(f"trading is {now.state.upper()}")
    if careful:
        parts.append('compare the positions with the broker\'s, and let it go on by --activate "WHY"')
    return "; ".join(parts)


def data_of(
    losses: Sequence[Loss], runs: Sequence[str], found: Comparison, now: Trading
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same for the log: kinds of entries, and their numbers."""
    for loss in losses:
        yield "FileRestored", asdict(loss) | {"runs": list(runs)}
    for order in found.adopted:
        intent = order.intent
        yield (
            "OrderAdopted",
            {
                "order": order.client_order_id,
                "of_run": intent.run_id,
                "account": intent.account,
                "symbol": intent.symbol,
                "side": str(intent.side),
                "quantity": str(order.filled),
                "price": str(order.price),
            },
        )
    for each in (*found.differences, *found.holdings):
        yield "BooksDiffer", {name: str(value) for name, value in asdict(each).items()}
    if losses or found.adopted or not found.agrees:
        yield "TradingState", {"state": str(now.state), "code": now.code, "why": now.why}


def warn(line: str) -> None:
    """Tell whoever started this."""
    with suppress(OSError, AttributeError):  # nobody may be listening any more
        sys.stderr.write(f"warning: {one_line(line)}\n")
        sys.stderr.flush()


def _named(order: Order) -> str:
    intent = order.intent
    return f"{order.client_order_id} ({intent.side} {digits(order.filled)} {intent.symbol}, run {intent.run_id})"


def _told(losses: Iterable[Loss]) -> str:
    return "; ".join(
        f"{loss.name} was damaged ({one_line(loss.what)}), is kept as {loss.moved_to}, and"
        + (
            f" the backup of {loss.backup} took its place"
            if loss.backup
            else " is begun anew: there was no good backup"
        )
        for loss in losses
    )
