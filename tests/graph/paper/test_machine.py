"""The paper broker under anything: whatever comes, in whatever order, nobody gets more, or for less, than there was."""

import tempfile
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.clock import ReplayClock
from agents.domain import Bar, Fill, OrderIntent, OrderStatus, Portfolio, Quote, Side
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from graph.paper import PaperBroker, PaperTerms
from graph.paper.matching import Prices
from graph.resilience.virtual import VirtualClock
from tests.checkpoints.test_ledger import allow
from tests.graph.paper.market import MINUTE_NS, S_NS, SEEN_NS

T = TypeVar("T")
TERMS = PaperTerms(latency_ms_min=0, latency_ms_max=3_000, participation=Decimal("0.5"), seed=11)
CASH = Decimal(10_000)
QUOTED, BARRED = "QUOTED", "BARRED"
_PRICE = st.integers(90, 110).map(Decimal)
_OPTIONAL = st.none() | _PRICE
_SIZE = st.none() | st.integers(0, 6).map(Decimal)
_CENT = Decimal("0.01")


@dataclass(slots=True)
class Story:
    """A broker and what it was told, so that the same can be told to another one."""

    path: Path
    clock: ReplayClock = field(default_factory=lambda: ReplayClock(SEEN_NS))
    told: list[tuple[str, Any]] = field(default_factory=list)
    broker: PaperBroker = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.broker = PaperBroker.open(self.path, self.clock, TERMS, at_once=False, inline=True)

    def restart(self) -> None:
        self.broker.database.close()
        self.open()

    def tell(self, what: str, given: Any) -> Any:
        self.told.append((what, given))
        if what == "wait":
            return self.clock.advance_to(given)
        if isinstance(given, Quote | Bar):
            time_ns = given.time_ns if isinstance(given, Quote) else given.close_ns
            self.clock.advance_to(max(self.clock.now_ns(), time_ns))
        return run(getattr(self.broker, what)(given))


def run(work: Coroutine[Any, Any, T]) -> T:
    with VirtualClock(7) as clock:  # a cancellation waits until it is there
        return clock.run(work)


class PaperMachine(RuleBasedStateMachine):
    """One symbol that has quotes and one that has bars; a ledger hears of it, sometimes late."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.story = Story(Path(self.folder.name) / "broker.db")
        self.database = Database.open(":memory:", inline=True)
        self.ledger = OrderLedger(self.database)
        run(self.ledger.open_account("paper", CASH))
        self.orders: dict[str, OrderIntent] = {}
        self.sent_ns: dict[str, int] = {}
        self.seen: dict[str, list[Prices]] = {QUOTED: [], BARRED: []}
        self.known: dict[str, BrokerReport] = {}
        self.expected: dict[str, BrokerReport] = {}

    def teardown(self) -> None:
        self.story.broker.database.close()
        self.database.close()
        with self.folder:
            self.the_same_again()

    # What happens.

    @rule(
        symbol=st.sampled_from([QUOTED, BARRED]),
        side=st.sampled_from(list(Side)),
        quantity=st.integers(1, 9).map(Decimal),
        limit=_OPTIONAL,
        stop=_OPTIONAL,
    )
    def send(self, symbol, side, quantity, limit, stop):
        number = len(self.orders)
        order = OrderIntent.derive(
            run_id=f"run-{number}",
            account="paper",
            symbol=symbol,
            side=side,
            quantity=quantity,
            reference_price=Decimal(100),
            reference_ns=self.newest_ns(symbol),
            limit_price=limit,
            stop_price=stop,
        )
        self.orders[order.intent_id], self.sent_ns[order.intent_id] = order, self.story.clock.now_ns()
        run(self.ledger.reserve(order, allow))
        run(self.ledger.mark_sending(order.intent_id))
        report = self.story.tell("send", order)
        run(self.ledger.record(order.intent_id, report))
        assert (report.status, report.fills) == (OrderStatus.OPEN, ())

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def send_again(self, data):
        name = data.draw(st.sampled_from(sorted(self.orders)))
        assert self.story.tell("send", self.orders[name]) == self.known[name]

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.orders)))
        report = self.story.tell("cancel", name)
        assert report.status in {OrderStatus.FILLED, OrderStatus.CANCELLED}
        run(self.ledger.record(name, report))

    @rule(later_s=st.integers(1, 5), bid=_PRICE, spread=st.integers(0, 3).map(Decimal), size=_SIZE, lost=st.booleans())
    def quote(self, later_s, bid, spread, size, lost):
        time_ns = self.newest_ns(QUOTED) + later_s * S_NS
        found = Quote(QUOTED, time_ns, bid, bid + spread, size, size)
        self.seen[QUOTED].append(Prices.of_quote(found))
        self.hear(self.story.tell("on_quote", found), lost)

    @rule(later=st.integers(1, 2), prices=st.tuples(*[_PRICE] * 4), size=_SIZE, lost=st.booleans())
    def bar(self, later, prices, size, lost):
        time_ns = self.newest_ns(BARRED) + later * MINUTE_NS
        found = Bar(BARRED, time_ns, prices[0], max(prices), min(prices), prices[-1], size)
        self.seen[BARRED].append(Prices.of_bar(found, None, TERMS))
        self.hear(self.story.tell("on_bar", found), lost)

    @rule(later=st.sampled_from([0.5, 30, 3600, 86_400]))
    def wait(self, later):
        """The clock runs ahead of the market."""
        self.story.tell("wait", self.story.clock.now_ns() + round(later * S_NS))

    @rule()
    def restart(self):
        self.story.restart()

    @rule()
    def ask(self):
        """The ledger catches up with what it has not heard of."""
        for name in self.orders:
            run(self.ledger.record(name, self.story.tell("find", name)))
        held = run(self.ledger.portfolio("paper"))
        assert held == self.fold()
        for symbol in (QUOTED, BARRED):
            executed = [quantity for each, quantity in run(self.story.broker.executed()).values() if each == symbol]
            assert held.position(symbol).quantity == sum(executed, Decimal(0))

    def hear(self, told: Mapping[str, BrokerReport], lost: bool) -> None:
        for name, report in told.items():
            assert report == self.story.tell("find", name)
            if not lost:
                run(self.ledger.record(name, report))

    # What is always so.

    @invariant()
    def no_more_than_was_ordered(self):
        for name, order in self.orders.items():
            report = self.expected[name] = self.story.tell("find", name)  # whoever asks late takes an old order out
            before = self.known.get(name, BrokerReport(OrderStatus.OPEN))
            filled = sum((fill.quantity for fill in report.fills), Decimal(0))
            assert filled <= order.quantity
            assert (report.status is OrderStatus.FILLED) is (filled == order.quantity)
            assert report.fills[: len(before.fills)] == before.fills
            assert not before.status.final or report.status.final
            self.known[name] = report

    @invariant()
    def no_price_that_was_not_there(self):
        slip = 1 + TERMS.slippage_bps / 10_000
        for name, fill in self.fills():
            order = self.orders[name]
            (met,) = [each for each in self.seen[order.symbol] if each.time_ns == fill.time_ns]
            path, buys = (met.ask, True) if order.side is Side.BUY else (met.bid, False)
            best, worst = (path.low, path.high * slip) if buys else (path.high, path.low / slip)
            assert min(best, worst) - _CENT <= fill.price <= max(best, worst) + _CENT
            assert order.limit_price is None or (fill.price - order.limit_price) * order.side.sign <= 0
            assert order.stop_price is None or any(self.touches(each, order) for each in self.since(order, fill))

    @invariant()
    def no_price_from_before(self):
        for name, fill in self.fills():
            order = self.orders[name]
            live_ns = max(self.sent_ns[name], order.reference_ns) + TERMS.latency_ns("order", name)
            assert live_ns <= fill.time_ns < live_ns + TERMS.expiry_ns
            assert fill.time_ns > order.reference_ns

    @invariant()
    def no_trade_twice(self):
        names = [fill.trade_id for _, fill in self.fills()]
        assert len(names) == len(set(names))

    @invariant()
    def no_more_volume_than_there_was(self):
        for symbol, shared in ((QUOTED, False), (BARRED, True)):
            for prices in self.seen[symbol]:
                for sides in [tuple(Side)] if shared else [(side,) for side in Side]:
                    room = prices.room[sides[0]]
                    used = [
                        fill.quantity
                        for _, fill in self.fills()
                        if (fill.symbol, fill.time_ns) == (symbol, prices.time_ns) and fill.side in sides
                    ]
                    assert room is None or sum(used, Decimal(0)) <= room

    def the_same_again(self):
        """The same prices and orders make the same trades, whatever was restarted in between."""
        again = Story(Path(self.folder.name) / "again.db")
        with again.broker.database:
            for what, given in self.story.told:
                again.tell(what, given)
            assert {name: run(again.broker.find(name)) for name in self.orders} == self.expected

    def newest_ns(self, symbol: str) -> int:
        return self.seen[symbol][-1].time_ns if self.seen[symbol] else SEEN_NS

    def fills(self) -> list[tuple[str, Fill]]:
        return [(name, fill) for name, report in self.known.items() for fill in report.fills]

    def fold(self) -> Portfolio:
        """All trades in the order in which the ledger heard of them: that of the sums does not depend on it."""
        held = Portfolio("paper", CASH)
        rows = self.database.read(
            lambda connection: connection.exec_driver_sql("SELECT trade_id FROM fills ORDER BY number").all()
        )
        by_name = {fill.trade_id: fill for _, fill in self.fills()}
        assert {name for (name,) in rows} == set(by_name)
        for (name,) in rows:
            held = held.apply(by_name[name])
        return held

    def since(self, order: OrderIntent, fill: Fill) -> list[Prices]:
        return [each for each in self.seen[order.symbol] if order.reference_ns < each.time_ns <= fill.time_ns]

    @staticmethod
    def touches(prices: Prices, order: OrderIntent) -> bool:
        if order.side is Side.BUY:
            return prices.ask.high >= order.stop_price
        return prices.bid.low <= order.stop_price


TestPaperMachine = PaperMachine.TestCase
TestPaperMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
