"""Start-up is recovery: damaged files are replaced, and the ledger is compared with the broker's books, before orders.

A file that was replaced by an older backup, or by nothing, has forgotten orders that were sent. From that moment on
trading is REDUCING, until both books have been compared: what only the broker knows is adopted into the ledger, and
when the two agree trading is ACTIVE again. Where they do not, or the broker cannot tell what it executed, it stays
REDUCING, the numbers are shown at every start, and an operator has to say that they are right.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.clock import Clock
from agents.domain import KillSwitchReason, Order, OrderStatus, TradingState
from agents.errors import HoldfastError, OrderError, StorageError
from checkpoints.backup import Loss, SafeFile
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, Executed, OrderLedger
from checkpoints.trading_state import Difference, Trading, TradingSwitch, be_careful, digits
from graph.broker import Broker, PaperBroker
from graph.result import one_line

__all__ = ["LEDGER", "Books", "Comparison", "Home", "data_of", "lost_runs", "open_home", "story", "warn"]

LEDGER = "holdfast.db"
"""The main database's file in a home."""
_RESTORED, _MISMATCH = KillSwitchReason.RESTORED_BACKUP, KillSwitchReason.RECONCILIATION
_RECONCILED = "reconciled"
_SHOWN = 5
"""How many of a kind a message names; the log has them all."""


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


def open_home(folder: Path, clock: Clock, *, address: str | Path | None = None, inline: bool = False) -> Home:
    """Check and open the ledger's file and the broker's; trading is REDUCING where one of them was replaced.

    `address`: where the ledger is, if not in a file of the folder: the URL of a server.

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
            careful = Trading(TradingState.REDUCING, _RESTORED, "holdfast", _told(losses), clock.now_ns())
            unaudited = database.write(lambda connection: be_careful(connection, careful))
            if unaudited is not None:
                warn(f"the audit log could not be written ({unaudited}); trading is REDUCING all the same")
        broker = PaperBroker.open(books, inline=inline)
        undo.callback(broker.database.close)
        for file in files:
            file.settled()
        undo.pop_all()
    opened = (database, broker.database)[-len(files) :]
    return Home(database, broker, tuple(zip(opened, files, strict=True)), tuple(losses))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ledger against the broker's books. `listed`: the broker could tell what it executed.

    `adopted`: orders that only the broker knew; `differences`: what does not agree, and is not accepted;
    `positions`: the quantities of both sides where they differ, by account and symbol.
    """

    listed: bool
    adopted: tuple[Order, ...] = ()
    differences: tuple[Difference, ...] = ()
    positions: tuple[tuple[str, str, Decimal, Decimal], ...] = ()


@dataclass(frozen=True, slots=True)
class Books:
    """Both books, and the trading state that depends on them.

    `cash` of accounts that have to be opened anew; `ours` says of a run id whether its orders went to this broker: a
    ledger on a server may be that of several homes, each with a broker of its own.
    """

    ledger: OrderLedger
    broker: Broker
    switch: TradingSwitch
    clock: Clock
    cash: Decimal
    ours: Callable[[str], bool] = lambda _: True

    async def compare(self) -> Comparison:
        """Adopt what only the broker knows, and give what cannot be made to agree. May be called at any time.

        The broker is read first: what it has executed by then, the ledger has heard of, since an order is written down
        before it is sent. Orders whose fate is open are left to `OrderDesk.recover`.
        """
        at_broker = await self.broker.executed()
        if at_broker is None:
            return Comparison(listed=False)
        here = await self.ledger.executed()
        new = [name for name, (_, quantity) in at_broker.items() if _is_new(here.get(name), quantity)]
        came = [await self._adopt(name, *at_broker[name], here.get(name)) for name in new]
        adopted = tuple(each for each in came if isinstance(each, Order))
        apart = [each for each in came if isinstance(each, Difference)]
        for name, known in here.items():
            gone = known.quantity and name not in at_broker and self.ours(known.run_id)
            if gone and await self.broker.find(name) is None:
                why = "the broker has never seen it"
                apart.append(Difference(name, known.account, known.symbol, known.quantity, Decimal(0), why))
        accepted = await self.switch.accepted() if apart else ()
        left = tuple(each for each in apart if each.terms not in accepted)
        positions = _positions(left, await self.ledger.executed()) if left else ()
        return Comparison(listed=True, adopted=adopted, differences=left, positions=positions)

    async def _adopt(self, name: str, symbol: str, quantity: Decimal, known: Executed | None) -> Order | Difference:
        mine = Decimal(0) if known is None else known.quantity
        account = "" if known is None else known.account
        try:
            intent = await self.broker.intent(name) if known is None else (await self.ledger.order(name)).intent
            report = await self.broker.find(name)
            if intent is None or report is None:
                return Difference(name, account, symbol, mine, quantity, "the broker has not kept whose it is")
            account = intent.account
            order = await self.ledger.adopt(intent, report, self.cash)
        except OrderError as error:
            return Difference(name, account, symbol, mine, quantity, str(error))
        if (mine := order.filled * order.intent.side.sign) != quantity:
            return Difference(name, account, symbol, mine, quantity, "not the same quantity was filled")
        return order

    async def reconcile(self) -> tuple[Comparison, Trading]:
        """Compare, and set the trading state by what comes out; a state that somebody else has set stays."""
        found, was = await self.compare(), await self.switch.read()
        if was.code == _RESTORED and not found.listed:
            await self._doubt()
        ours = was.code in {_RESTORED, _MISMATCH} and was.state is TradingState.REDUCING
        if found.differences and (was.state is TradingState.ACTIVE or was.code == _RESTORED):
            await self._set(TradingState.REDUCING, _MISMATCH, "holdfast", _told_of(found), was)
        elif ours and found.listed and not found.differences:
            why = f"the books agree; {len(found.adopted)} orders were adopted; it was so because {was.why}"
            await self._set(TradingState.ACTIVE, _RECONCILED, "holdfast", why, was)
        else:
            return found, was
        return found, await self.switch.read()

    async def _doubt(self) -> None:
        """What an older copy of the ledger has as not sent may have been sent since, and must not be sent blindly."""
        for name, known in (await self.ledger.executed()).items():
            if known.status is OrderStatus.PENDING:
                report = await self.broker.find(name)
                lost = BrokerReport(OrderStatus.UNKNOWN, reason="the ledger is an older copy: it may have been sent")
                await self.ledger.adopt((await self.ledger.order(name)).intent, report or lost, self.cash)

    async def activate(
        self, who: str, why: str, state: TradingState = TradingState.ACTIVE
    ) -> tuple[Comparison, Trading]:
        """An operator says that trading may go on, or what closes a position at least.

        With ACTIVE all is said to be right as it is: the differences that there are, are accepted. Gives them, and the
        state that it was.

        Raises:
            StorageError: the audit log cannot be written, or a `HALT` file not be removed; trading stays as it was.
            HoldfastError: the state was changed by somebody else meanwhile.
        """
        found, was = await self.compare(), await self.switch.read()
        accepted = found.differences if state is TradingState.ACTIVE else ()
        looser = Trading(state, KillSwitchReason.OPERATOR, who, why, self.clock.now_ns())
        if not await self.switch.release(looser, instead_of=was, detail={"accepted": len(accepted)}):
            raise HoldfastError(
                "the trading state was changed while this was asked for; nothing was changed; see --runs, and ask again"
            )
        await self.switch.accept(accepted, who, why, self.clock.now_ns())
        if state is TradingState.ACTIVE:  # or what stopped it would stop it again with the first order
            await self.ledger.begin_anew()
        return replace(found, differences=tuple(accepted)), was

    async def _set(self, state: TradingState, code: str, who: str, why: str, was: Trading) -> None:
        await self.switch.set(Trading(state, code, who, why, self.clock.now_ns()), instead_of=was)


def _is_new(known: Executed | None, quantity: Decimal) -> bool:
    """Whether the broker has more to say of an order than the ledger knows. In PENDING it cannot have left."""
    if known is None or known.status is OrderStatus.PENDING:
        return True
    unsettled = known.status in {OrderStatus.SENDING, OrderStatus.UNKNOWN, OrderStatus.OPEN}
    return not unsettled and known.quantity != quantity


def _positions(
    differences: Iterable[Difference], executed: Mapping[str, Executed]
) -> tuple[tuple[str, str, Decimal, Decimal], ...]:
    """All else agrees, so the broker's position is the ledger's and what they differ by."""
    apart: dict[tuple[str, str], Decimal] = {}
    for each in differences:
        key = (each.account, each.symbol)
        apart[key] = apart.get(key, Decimal(0)) + each.broker - each.ledger
    held = dict.fromkeys(apart, Decimal(0))
    for known in executed.values():
        if (known.account, known.symbol) in held:
            held[known.account, known.symbol] += known.quantity
    return tuple((*key, held[key], held[key] + by) for key, by in sorted(apart.items()))


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
    careful = now.state is TradingState.REDUCING and now.code in {_RESTORED, _MISMATCH}
    if not (losses or found.adopted or careful):
        return ""
    parts = [_told(losses)] if losses else []
    if runs:
        parts.append(f"the registry lacks {_some(runs, 'run')}")
    if found.adopted:
        parts.append(f"the ledger adopted from the broker {_some([_named(each) for each in found.adopted], 'order')}")
    if found.differences:
        parts.append(_told_of(found))
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
    for each in found.differences:
        yield "BooksDiffer", {name: str(value) for name, value in asdict(each).items()}
    if losses or found.adopted or found.differences:
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


def _told_of(found: Comparison) -> str:
    positions = [
        f"{account or 'of an unknown account'} {symbol}: {digits(ledger)} in the ledger, {digits(broker)} at the broker"
        for account, symbol, ledger, broker in found.positions
    ]
    orders = [f"{each.client_order_id} ({one_line(each.why)})" for each in found.differences]
    return f"the ledger and the broker differ in {_some(positions, 'position')}, by {_some(orders, 'order')}"


def _some(items: Sequence[str], noun: str) -> str:
    """`2 runs: a, b`, or the first of many."""
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}: {', '.join(items[:_SHOWN])}{rest}"
