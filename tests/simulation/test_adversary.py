"""A test of the tests: one guard after another is taken out of the program, and named seeds find each.

What nobody notices when it is gone might as well not be there; and rules that never find anything are none.
"""

import itertools
from decimal import Decimal

import pytest

from agents import domain
from agents.errors import OrderRefused
from checkpoints.brackets import BracketBook
from checkpoints.leases import Leases
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import Trading
from graph.desk import OrderDesk
from graph.inquiry import readable
from graph.session.orders import OrderQueue
from graph.session.staleness import StaleWatch
from graph.stream.events import Reason
from graph.stream.frames import BarTrack, Refused, TradeTrack
from tests.simulation.session.play import play


def no_fence(monkeypatch):
    """Whoever was paused writes on when it is woken, though another has taken over."""
    monkeypatch.setattr(Leases, "check", lambda _self, _connection, _run_id: None)


def no_gap_check(monkeypatch):
    """What is missing between two trades, or two bars, is not looked for."""
    read_bar, follows = BarTrack.read, TradeTrack._follows

    def read(self, data, now_ns):
        bar = read_bar(self, data, now_ns)
        self.missing = 0
        return bar

    monkeypatch.setattr(BarTrack, "read", read)
    monkeypatch.setattr(TradeTrack, "_follows", lambda *given: min(0, follows(*given)))


def no_stale_check(monkeypatch):
    """Trading goes on at prices of long ago."""

    async def look(self, age_s, was):
        del self, age_s, was

    monkeypatch.setattr(StaleWatch, "look", look)


def random_ids(monkeypatch):
    """An order has another id each time it is thought of."""
    numbers = itertools.count()
    monkeypatch.setattr(domain, "_intent_id", lambda **_: f"random{next(numbers)}")
    monkeypatch.setattr(domain.OrderIntent, "__post_init__", lambda _self: None)


def no_bound(monkeypatch):
    """As many orders wait as anybody wants."""
    init = OrderQueue.__init__

    def unbounded(self, desk, size, clock, **more):
        init(self, desk, size * 1_000, clock, **more)

    monkeypatch.setattr(OrderQueue, "__init__", unbounded)


def unknown_is_failed(monkeypatch):
    """An order whose answer was lost is taken for one that failed, and is sent again."""

    async def send(self, intent):
        for _ in range(2):
            try:
                report = readable(await self._guard(self._broker.send, intent))
            except OrderRefused as refusal:
                report = BrokerReport(domain.OrderStatus.REJECTED, reason=str(refusal))
            except Exception:  # noqa: BLE001, S112 - that is the mistake
                continue
            return await self._ledger.record(intent.intent_id, report)
        return await self._ledger.record(intent.intent_id, BrokerReport(domain.OrderStatus.NOT_PLACED))

    monkeypatch.setattr(OrderDesk, "_send", send)


def duplicate_bars(monkeypatch):
    """A bar that was there already is taken for a new one."""
    read = BarTrack.read

    def forgetful(self, data, now_ns):
        try:
            return read(self, data, now_ns)
        except Refused as refused:
            if refused.reason is Reason.DUPLICATE:
                return self._bar(self._decode(data).k)
            raise

    monkeypatch.setattr(BarTrack, "read", forgetful)


def no_brackets_on_disk(monkeypatch):
    """Stops are watched, but not written down."""

    async def save(self, brackets):
        del self, brackets

    monkeypatch.setattr(BracketBook, "save", save)


def halted_is_nothing(monkeypatch):
    """The trading state is not asked before an order is sent."""
    active = Trading(domain.TradingState.ACTIVE, "", "", "", 0)
    init = OrderLedger.__init__

    def careless(self, database, fence, _trading, clock):
        init(self, database, fence, lambda _connection: active, clock)

    monkeypatch.setattr(OrderLedger, "__init__", careless)


def no_limits(monkeypatch):
    """What a review finds is not acted upon, and the throttle lets everything through."""
    monkeypatch.setattr(OrderDesk, "_review", lambda _self, *_given: ())
    monkeypatch.setattr("graph.desk.throttled", _tenfold)


class _Left:
    reasons = ()

    def __init__(self, quantity):
        self.quantity = quantity


def _tenfold(quantity, held, *_given):
    return _Left(quantity * 50 if not held else Decimal(quantity))


GUARDS = {
    no_fence: (31, 73, 115),
    no_gap_check: (8, 9, 51),
    no_stale_check: (4, 44, 46),
    random_ids: (58, 16, 100, 142),
    no_bound: (36, 78, 120),
    unknown_is_failed: (58, 100, 142),
    duplicate_bars: (176, 8, 134),
    no_brackets_on_disk: (71, 113, 29, 155),
    halted_is_nothing: (20, 34, 62),
    no_limits: (0, 38, 80),
}
"""Seeds that find that a guard is missing: the first of them, as long as nothing else has changed. With all guards in
their places none of them finds anything: they are among those of `test_sessions`."""


@pytest.mark.parametrize("remove", GUARDS, ids=lambda remove: remove.__name__)
def test_a_guard_that_is_removed_is_missed(monkeypatch, remove):
    remove(monkeypatch)
    assert any(play(seed).broken for seed in GUARDS[remove]), f"nobody noticed that there is {remove.__name__}"
