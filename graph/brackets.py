"""The brackets that are open, watched on every price: what they let go is on disk before it is sent.

    brackets = Brackets(BracketBook(database), ledger)
    await brackets.load()
    await brackets.open(bracket)                         # with the approved plan, before its first order
    for intent in await brackets.on_quote(quote): ...    # hand each to the desk
    await brackets.heard(order, at_ns)                   # with the desk's answers, and whatever the ledger learns later

No exit is larger than the position that there is: what somebody else has closed, or is closing at the market, is left
to them. An order that rests is no such exit: who lets a target rest at the broker cancels it when a stop has sprung.

One whose position is closed is remembered for a day: an order that was cancelled may turn out to have been filled all
the same, and what it opened is covered as before. Of a bracket that has sprung it goes with the next price.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Protocol, TypeAlias

from agents.bracket import Bracket
from agents.clock import NANOSECONDS
from agents.domain import Bar, Order, OrderIntent, OrderType, Portfolio, Quote, Side
from checkpoints.brackets import BracketBook

__all__ = ["Brackets", "Positions"]

_LAZY_NS = NANOSECONDS
"""A stop that moves again and again is saved so often: a market that runs would cost a commit with every quote."""
_LATE_NS = 24 * 3_600 * NANOSECONDS
"""For so long after its newest fill or exit a bracket that is closed may be opened again by a late fill."""
_Key: TypeAlias = tuple[str, int]
_Step: TypeAlias = Callable[[Bracket], tuple[Bracket, OrderIntent | None]]


class Positions(Protocol):
    """What of an `OrderLedger` is needed; see there."""

    async def portfolio(self, account: str) -> Portfolio: ...

    async def orders(self, run_id: str) -> tuple[Order, ...]: ...

    async def at_broker(self) -> tuple[Order, ...]: ...


class Brackets:
    """See the module's text. One for a process, and one process for a database; what is asked at once waits in turn."""

    def __init__(self, book: BracketBook, positions: Positions) -> None:
        self._book = book
        self._positions = positions
        self._open: dict[str, dict[_Key, Bracket]] = {}
        self._closed: dict[_Key, Bracket] = {}
        self._saved_ns: dict[_Key, int] = {}  # when a stop was saved that had moved
        self._unsaved: set[_Key] = set()
        self._lock = asyncio.Lock()

    async def load(self, run_id: str | None = None) -> tuple[Bracket, ...]:
        """Go on watching what was watched when the last process ended, of one run or of all. As `BracketBook.load`.

        What became of its orders meanwhile the ledger knows: it has asked the broker by now.
        """
        async with self._lock:
            saved = [each for each in await self._book.load() if run_id in {None, each.run_id}]
            orders = {name: await self._positions.orders(name) for name in {each.run_id for each in saved}}
            await self._save([_after(orders[bracket.run_id], bracket) for bracket in saved])
        return self.all()

    async def open(self, bracket: Bracket) -> None:
        """Watch a bracket from now on; one of the same decision goes on as it is, if anything of it was opened."""
        async with self._lock:
            known = self._known(bracket.symbol, (bracket.run_id, bracket.decision))
            if known is None or not known.parts:
                await self._save([bracket])
            await self._let_go(bracket.since_ns - _LATE_NS)

    async def forget(self, run_id: str, decision: int = 0) -> None:
        """Watch a bracket no more, whatever it covers: its decision is void, or somebody else sees to it."""
        async with self._lock:
            await self._forget((run_id, decision))

    async def flush(self) -> None:
        """Save the stops that have moved since they were saved last."""
        async with self._lock:
            await self._save([each for each in self.all() if (each.run_id, each.decision) in self._unsaved])

    def all(self) -> tuple[Bracket, ...]:
        """The brackets that are watched."""
        return tuple(bracket for found in self._open.values() for bracket in found.values())

    def has_sprung(self, run_id: str, decision: int = 0) -> bool:
        """Whether all of a decision's position goes, or is gone, so that nothing more may be ordered for it."""
        known = (*self.all(), *self._closed.values())
        return any(each.sprung for each in known if (each.run_id, each.decision) == (run_id, decision))

    async def heard(self, order: Order, at_ns: int) -> None:
        """Take what became of an order; `at_ns`: when. Orders of which there is no bracket are nobody's concern."""
        intent = order.intent
        async with self._lock:
            known = self._known(intent.symbol, (intent.run_id, intent.decision))
            if known is not None and (after := known.heard(order, at_ns)) != known:
                await self._save([after])

    async def trim(self, account: str, symbol: str) -> None:
        """Let go of what others have closed, the oldest first: all brackets cover no more than the position there is.

        To be asked while no order is under way. Or the stop of a position that is gone would close a later one.
        """
        async with self._lock:
            held = (await self._positions.portfolio(account)).position(symbol).quantity
            watched = [each for each in self._open.get(symbol, {}).values() if each.account == account]
            cut = [each for side in Side for each in _trimmed(watched, side, held * side.sign)]
            if cut:
                await self._save(cut)

    async def on_quote(self, quote: Quote) -> tuple[OrderIntent, ...]:
        """The exits to send now. Where nothing is touched, nothing is read or written."""
        if not self._open.get(quote.symbol):
            return ()
        async with self._lock:
            return await self._step(quote.symbol, quote.time_ns, lambda bracket: bracket.on_quote(quote))

    async def on_bar(self, bar: Bar, begin_ns: int) -> tuple[OrderIntent, ...]:
        """The exits to send now; `begin_ns`: when the bar began."""
        async with self._lock:
            return await self._step(bar.symbol, bar.close_ns, lambda bracket: bracket.on_bar(bar, begin_ns))

    async def _step(self, symbol: str, time_ns: int, step: _Step) -> tuple[OrderIntent, ...]:
        changed: list[Bracket] = []
        exits: list[OrderIntent] = []
        for before in tuple(self._open.get(symbol, {}).values()):
            after, intent = step(before)
            if intent is not None and intent != before.exit:
                after, intent = await self._within_position(before, step, exits)
            if self._is_due(before, after, time_ns):
                changed.append(after)
            else:
                self._keep(after)
            if intent is not None:
                exits.append(intent)
        if changed:
            await self._save(changed)
        return tuple(exits)

    def _is_due(self, before: Bracket, after: Bracket, time_ns: int) -> bool:
        """Whether a bracket has to be on disk now. A stop that has moved again so soon has a little time."""
        key = (after.run_id, after.decision)
        if after.sprung or after.parts != before.parts:
            return after is not before
        if after is not before:
            self._unsaved.add(key)
        if key not in self._unsaved or time_ns < self._saved_ns.get(key, time_ns - _LAZY_NS) + _LAZY_NS:
            return False
        self._saved_ns[key] = time_ns
        return True

    async def _save(self, brackets: Sequence[Bracket]) -> None:
        await self._book.save(brackets)
        for bracket in brackets:
            self._unsaved.discard((bracket.run_id, bracket.decision))
            self._keep(bracket)

    async def _within_position(
        self, bracket: Bracket, step: _Step, exits: Sequence[OrderIntent]
    ) -> tuple[Bracket, OrderIntent | None]:
        """The step again, on as much as there is to close; while others are closing it, it has sprung and waits."""
        held = (await self._positions.portfolio(bracket.account)).position(bracket.symbol).quantity * bracket.side.sign
        capped = bracket.at_most(max(held, Decimal(0)))
        after, intent = step(capped)
        if intent is None or capped.held <= held - await self._going(bracket, exits):
            return after, intent
        return replace(after, exit=None, tries=bracket.tries, tried_ns=bracket.tried_ns), None

    async def _going(self, bracket: Bracket, exits: Sequence[OrderIntent]) -> Decimal:
        """What orders are closing at the market of the position that a bracket covers, none of which is its own."""
        at_market = [each for each in await self._positions.at_broker() if each.intent.type is OrderType.MARKET]
        sent = {each.client_order_id: each for each in at_market}
        asked = [each.exit for each in self.all() if each.exit is not None]
        going = {each.intent_id: (each, each.quantity) for each in (*asked, *exits)}
        going |= {name: (order.intent, order.intent.quantity - order.filled) for name, order in sent.items()}
        return sum((left for intent, left in going.values() if _closes(intent, bracket)), Decimal(0))

    def _known(self, symbol: str, key: _Key) -> Bracket | None:
        return self._open.get(symbol, {}).get(key) or self._closed.get(key)

    def _keep(self, bracket: Bracket) -> None:
        key = (bracket.run_id, bracket.decision)
        if bracket.closed:
            self._drop(key)
            self._closed[key] = bracket
        else:
            self._closed.pop(key, None)
            self._open.setdefault(bracket.symbol, {})[key] = bracket

    async def _let_go(self, before_ns: int) -> None:
        """Remember no more what closed before."""
        for key, bracket in tuple(self._closed.items()):
            if max(bracket.since_ns, bracket.tried_ns) < before_ns:
                await self._forget(key)

    async def _forget(self, key: _Key) -> None:
        await self._book.forget(*key)
        self._drop(key)

    def _drop(self, key: _Key) -> None:
        self._unsaved.discard(key)
        self._saved_ns.pop(key, None)
        self._closed.pop(key, None)
        for found in self._open.values():
            found.pop(key, None)


def _after(orders: Sequence[Order], bracket: Bracket) -> Bracket:
    """The bracket after what became of its run's orders."""
    for order in orders:
        bracket = bracket.heard(order, order.intent.reference_ns)
    return bracket


def _closes(intent: OrderIntent, bracket: Bracket) -> bool:
    side = Side.SELL if bracket.side is Side.BUY else Side.BUY
    return (intent.account, intent.symbol, intent.side) == (bracket.account, bracket.symbol, side)


def _trimmed(brackets: Sequence[Bracket], side: Side, held: Decimal) -> Iterator[Bracket]:
    """Those of one side that cover more than there is, with the rest; one whose exit is under way is left alone."""
    mine = sorted((each for each in brackets if each.side is side), key=lambda each: (each.since_ns, each.decision))
    excess = sum((each.held for each in mine), Decimal(0)) - max(held, Decimal(0))
    for each in mine:
        if excess > 0 and each.exit is None and each.held > 0:
            gone = min(excess, each.held)
            excess -= gone
            yield each.at_most(each.held - gone)
