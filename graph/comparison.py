"""The ledger against the broker's books: what only the broker knows is adopted, and what does not agree is named.

By order where the broker can list what it executed, and by position where it counts them itself. Trading is REDUCING
while orders differ, and HALTED where positions do: then whatever closes a position here might open one there. An
operator may accept differences as they are.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from agents.clock import Clock
from agents.domain import KillSwitchReason, Order, OrderStatus, TradingState
from agents.errors import HoldfastError, OrderError
from checkpoints.ledger import BrokerReport, Executed, OrderLedger
from checkpoints.orders import LIVE
from checkpoints.trading_state import Difference, Trading, TradingSwitch, digits
from graph.broker import Broker
from graph.result import one_line

__all__ = ["MISMATCH", "RESTORED", "Books", "Comparison", "some", "told_of"]

RESTORED, MISMATCH = KillSwitchReason.RESTORED_BACKUP, KillSwitchReason.RECONCILIATION
"""The codes of a state that is lifted when the books agree."""
_RECONCILED = "reconciled"
_SHOWN = 5
"""How many of a kind a message names; the log has them all."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ledger against the broker's books. `listed`: the broker could tell what it executed.

    `adopted`: orders that only the broker knew; `differences`: what does not agree, and is not accepted;
    `positions`: the quantities of both sides where they differ, by account and symbol; `holdings`: where the venue
    counts another quantity of a symbol than all orders come to, beyond the tolerance, which is not accepted.
    """

    listed: bool
    adopted: tuple[Order, ...] = ()
    differences: tuple[Difference, ...] = ()
    positions: tuple[tuple[str, str, Decimal, Decimal], ...] = ()
    holdings: tuple[Difference, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether nothing is left that differs."""
        return not (self.differences or self.holdings)


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
        before it is sent. Orders that are open, or whose fate is, are left to the reconciler. Positions come after the
        orders that make them; where they are apart, something may have been executed between the two looks, and both
        are looked at again.
        """
        found = await self._compared()
        if not (found.holdings and found.listed):
            return found
        again = await self._compared()
        holdings = tuple(each for each in again.holdings if each in found.holdings)
        return replace(again, adopted=(*found.adopted, *again.adopted), holdings=holdings)

    async def _compared(self) -> Comparison:
        at_broker = await self.broker.executed()
        if at_broker is None:
            return Comparison(listed=False, holdings=await self._holdings((), ()))
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
        holdings = await self._holdings(at_broker, apart)
        return Comparison(listed=True, adopted=adopted, differences=left, positions=positions, holdings=holdings)

    async def _holdings(self, at_broker: Container[str], apart: Iterable[Difference]) -> tuple[Difference, ...]:
        """Where the venue's own count is another one, of symbols in which nothing is under way.

        By how much orders are `apart` is told of by order, accepted or not, and is no difference of positions besides.
        It is asked before and after the ledger: what was traded meanwhile is in one of the two, or open in the ledger.
        """
        before = await self.broker.holdings()
        if before is None:
            return ()
        known = await self.ledger.executed()
        here, after = self._sums(known, at_broker), await self.broker.holdings() or {}
        for each in apart:
            here[each.symbol] = here.get(each.symbol, _NONE) + each.broker - each.ledger
        busy = {each.symbol for each in known.values() if each.status in LIVE}
        quiet = {symbol for symbol in {*here, *before, *after} - busy if before.get(symbol) == after.get(symbol)}
        apart = [
            Difference(f"position {symbol}", "", symbol, mine, theirs, "the venue counts another quantity")
            for symbol in sorted(quiet)
            for mine, theirs in ((here.get(symbol, _NONE), after.get(symbol, _NONE)),)
            if abs(mine - theirs) > _TOLERANCE * max(abs(mine), abs(theirs))
        ]
        accepted = await self.switch.accepted() if apart else ()
        return tuple(each for each in apart if _by_how_much(each).terms not in accepted)

    def _sums(self, executed: Mapping[str, Executed], at_broker: Container[str]) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for name, known in executed.items():
            if name in at_broker or self.ours(known.run_id):
                sums[known.symbol] = sums.get(known.symbol, _NONE) + known.quantity
        return sums

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
        # As it has told just now: an order that was open a moment ago may have been filled since.
        quantity = sum((fill.quantity * fill.side.sign for fill in report.fills), _NONE)
        if (mine := order.filled * order.intent.side.sign) != quantity:
            return Difference(name, account, symbol, mine, quantity, "not the same quantity was filled")
        return order

    async def reconcile(self, doubts: Sequence[str] = ()) -> tuple[Comparison, Trading]:
        """Compare, and set the trading state by what comes out; a state that somebody else has set stays.

        `doubts`: what else is not as it should be, in words; REDUCING, as long as there is any. A venue that counts
        other quantities than the ledger halts: whatever closes a position might open one there.
        """
        found, was = await self.compare(), await self.switch.read()
        if was.code == RESTORED and not found.listed:
            await self._doubt()
        ours = was.code in {RESTORED, MISMATCH} and was.state is TradingState.REDUCING
        wrong = "; ".join(filter(None, (told_of(found), *doubts)))
        if found.holdings and (was.state is TradingState.ACTIVE or ours):
            await self._set(TradingState.HALTED, MISMATCH, "holdfast", wrong, was)
        elif wrong and (was.state is TradingState.ACTIVE or (was.code == RESTORED and found.listed)):
            await self._set(TradingState.REDUCING, MISMATCH, "holdfast", wrong, was)
        elif ours and not wrong and (found.listed or was.code == MISMATCH):
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
        everything = (*found.differences, *map(_by_how_much, found.holdings))
        accepted = everything if state is TradingState.ACTIVE else ()
        looser = Trading(state, KillSwitchReason.OPERATOR, who, why, self.clock.now_ns())
        if not await self.switch.release(looser, instead_of=was, detail={"accepted": len(accepted)}):
            raise HoldfastError(
                "the trading state was changed while this was asked for; nothing was changed; see --runs, and ask again"
            )
        await self.switch.accept(accepted, who, why, self.clock.now_ns())
        if state is TradingState.ACTIVE:  # or what stopped it would stop it again with the first order
            await self.ledger.begin_anew()
        return replace(found, differences=accepted, holdings=()), was

    async def _set(self, state: TradingState, code: str, who: str, why: str, was: Trading) -> None:
        await self.switch.set(Trading(state, code, who, why, self.clock.now_ns()), instead_of=was)


_NONE = Decimal(0)
_TOLERANCE = Decimal("0.001")
"""Share of a position by which a venue may count it otherwise, by roundings of its own."""


def _by_how_much(held: Difference) -> Difference:
    """What an operator accepts of a position is by how much it differs: it is traded in from then on."""
    return replace(held, ledger=_NONE, broker=held.broker - held.ledger)


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


def told_of(found: Comparison) -> str:
    """What differs, on one line; "" where nothing does."""
    positions = [
        f"{account or 'of an unknown account'} {symbol}: {digits(ledger)} in the ledger, {digits(broker)} at the broker"
        for account, symbol, ledger, broker in found.positions
    ]
    orders = [f"{each.client_order_id} ({one_line(each.why)})" for each in found.differences]
    held = [
        f"{each.symbol}: {digits(each.ledger)} in the ledger, {digits(each.broker)} at the venue"
        for each in found.holdings
    ]
    parts = []
    if orders:
        parts.append(f"the ledger and the broker differ in {some(positions, 'position')}, by {some(orders, 'order')}")
    if held:
        parts.append(f"the venue counts other quantities than the ledger, in {some(held, 'symbol')}")
    return "; ".join(parts)


def some(items: Sequence[str], noun: str) -> str:
    """`2 runs: a, b`, or the first of many."""
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}: {', '.join(items[:_SHOWN])}{rest}"
