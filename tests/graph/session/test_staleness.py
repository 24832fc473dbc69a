"""Old prices: each limit, and what is lifted again, which is nothing that somebody else has set."""

import pytest

from agents.domain import KillSwitchReason, TradingState
from agents.errors import StorageError
from checkpoints.trading_state import Trading
from graph.session.staleness import StaleWatch
from graph.session_terms import SessionTerms

WHO = "session session-1"


class Switch:
    def __init__(self):
        self.now = Trading(TradingState.ACTIVE, "new", "", "", 0)
        self.fails = False

    async def set(self, trading, *, instead_of):
        if self.fails:
            raise StorageError("the disk is full")
        if instead_of != self.now:
            return False
        self.now = trading
        return True


class Kill:
    def __init__(self):
        self.swept = []

    async def sweep(self, state):
        self.swept.append(state)


class Clock:
    def now_ns(self):
        return 5


@pytest.fixture
def watch():
    return StaleWatch(Switch(), Kill(), Clock(), SessionTerms(), "BTCUSDT", WHO, lambda *told: watch_told.append(told))


watch_told: list = []


async def look(watch, age_s, quotes=0):
    for _ in range(quotes):
        watch.quote_came()
    await watch.look(age_s, watch.switch.now)
    return watch.switch.now.state


async def test_ten_seconds_reduce_and_sixty_halt(watch):
    ages = [0, 9.9, 10, 59, 60, 600]
    A, R, H = TradingState.ACTIVE, TradingState.REDUCING, TradingState.HALTED  # noqa: N806
    assert [await look(watch, age) for age in ages] == [A, A, R, R, H, H]
    assert watch.kill.swept == [R, H], "once for each change"
    assert watch.switch.now.code == KillSwitchReason.STALE_DATA
    assert watch.switch.now.who == WHO


async def test_three_new_prices_lift_it_and_two_do_not(watch):
    assert await look(watch, 70) is TradingState.HALTED
    assert await look(watch, 0.1, quotes=2) is TradingState.HALTED
    assert await look(watch, 0.1, quotes=1) is TradingState.ACTIVE
    assert watch.switch.now.code == "fresh_data"


async def test_prices_of_before_do_not_count(watch):
    assert await look(watch, 0.1, quotes=100) is TradingState.ACTIVE
    assert await look(watch, 11) is TradingState.REDUCING
    assert await look(watch, 0.1, quotes=1) is TradingState.REDUCING


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
@pytest.mark.parametrize(("code", "who"), [("operator", "anna"), ("stale_data", "session session-2")])
async def test_what_others_have_set_is_neither_made_stricter_nor_lifted(watch, state, code, who):
    watch.switch.now = set_by_others = Trading(state, code, who, "lunch", 1)
    for age, quotes in ((70, 0), (0, 9)):
        await look(watch, age, quotes)
        assert watch.switch.now == set_by_others


async def test_a_database_that_fails_is_told_and_tried_again(watch):
    watch_told.clear()
    watch.switch.fails = True
    assert await look(watch, 11) is TradingState.ACTIVE
    assert watch_told[0][0] == "TripFailed"
    watch.switch.fails = False
    assert await look(watch, 12) is TradingState.REDUCING
