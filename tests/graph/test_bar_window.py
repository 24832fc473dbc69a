"""Bars as they come in: the window is always what a view of the same bars would be, or the bar was refused."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.domain import MarketView, Quote
from agents.errors import ConfigError, InvalidValue
from graph.bar_window import BarWindow
from tests.graph.floor import MINUTE_NS, START_NS, bar_of, view_of

S_NS = 10**9


def window_of(size=512, **view):
    return BarWindow(view_of(**view), MINUTE_NS, size)


def test_it_goes_on_where_the_history_ends():
    window = window_of(bars=3)
    assert window.take(bar_of(1, "101"), bar_of(1).close_ns)
    view = window.view
    assert (len(view), view.as_of_ns, view.close) == (4, bar_of(1).close_ns, (100.0, 100.0, 100.0, 101.0))
    assert (view.symbol, view.calendar, view.price_step, view.period_ns) == ("SIM", "24/7", Decimal("0.01"), MINUTE_NS)
    assert window.next_ns == bar_of(2).close_ns


@pytest.mark.parametrize("size", [1, 3, 5, 10])
def test_it_keeps_so_many(size):
    window = window_of(size, bars=4, volume=(1.0, 2.0, 3.0, 4.0))
    for number in range(1, 7):
        window.take(bar_of(number, str(100 + number), volume=number), bar_of(number).close_ns)
    view = window.view
    assert len(view) == min(size, 10)
    assert view.close[-1] == 106.0
    assert view.volume == (1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)[-size:]


def test_volume_is_of_all_bars_or_of_none():
    window = window_of(volume=(1.0,) * 120)
    with pytest.raises(InvalidValue, match="one without volume, which those before it have"):
        window.take(bar_of(1), bar_of(1).close_ns)
    plain = window_of()
    plain.take(bar_of(1, volume=5), bar_of(1).close_ns)
    assert plain.view.volume == ()


def test_the_index_of_others_ends_with_the_first_bar():
    window = window_of(market=(1.0,) * 120)
    window.take(bar_of(1), bar_of(1).close_ns)
    assert window.view.market == ()


def test_a_bar_of_another_period_is_not_watched():
    with pytest.raises(ConfigError, match="come every 60 s, and the setting bar_period is 1"):
        BarWindow(view_of(), S_NS, 5)


@pytest.mark.parametrize(
    ("close_ns", "why"),
    [
        (START_NS - 1, "before the newest"),
        (START_NS - 500 * MINUTE_NS, "before the newest"),
        (START_NS + 1, "bars come every 60 s"),
        (START_NS + 30 * S_NS - 1, "29.* s after the newest"),
        (START_NS + 61 * S_NS + 1, r"1.000 s in the future"),
        (2**62, "in the future"),
    ],
)
def test_a_time_that_cannot_be(close_ns, why):
    window = window_of()
    before = window.view
    with pytest.raises(InvalidValue, match=why) as refused:
        window.take(replace(bar_of(1), close_ns=close_ns), START_NS + 60 * S_NS)
    assert window.view is before
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("close_ns", [START_NS + 30 * S_NS, START_NS + 61 * S_NS, START_NS + 45 * S_NS])
def test_a_time_that_can_be(close_ns):
    """Half a bar before a market closes; and a clock of ours that is a second behind."""
    assert window_of().take(replace(bar_of(1), close_ns=close_ns), START_NS + 60 * S_NS)


@given(st.lists(st.integers(-130, 60), max_size=40))
def test_whatever_comes_each_time_is_there_once_and_in_order(numbers):
    window, now_ns = window_of(20), bar_of(50).close_ns
    taken = []
    for number in numbers:
        before = window.view
        try:
            if window.take(bar_of(number), now_ns):
                taken.append(number)
            else:
                assert bar_of(number).close_ns in before.close_ns
                assert window.view is before
        except InvalidValue:
            assert window.view is before
    assert taken == sorted(set(taken))
    assert isinstance(window.view, MarketView), "which has checked that its times increase"
    assert [bar_of(number).close_ns for number in taken[-20:]] == list(window.view.close_ns)[-len(taken) or 999 :][-20:]


def test_how_long_ago():
    window = window_of()
    window.take(bar_of(4), bar_of(4).close_ns)
    assert (window.since(START_NS), window.since(bar_of(4).close_ns), window.since(2**62)) == (4, 0, 0)
    sessions = window_of(calendar="XNYS")
    sessions.take(bar_of(4), bar_of(4).close_ns)
    assert sessions.since(START_NS) == 1, "the night is no bar"


def test_history_and_the_present():
    window = window_of()
    assert not window.is_old(bar_of(1).close_ns + S_NS)
    assert window.is_old(bar_of(1).close_ns + S_NS + 1)


def test_quotes():
    window = window_of()
    window.take_quote(first := Quote("SIM", START_NS + S_NS, Decimal(1), Decimal(2)), START_NS)
    window.take_quote(same := replace(first, ask=Decimal(3)), START_NS)
    assert window.quote == same
    for time_ns, why in ((START_NS, "before the last"), (START_NS + S_NS + 1, "in the future")):
        with pytest.raises(InvalidValue, match=why):
            window.take_quote(replace(first, time_ns=time_ns), START_NS)
    assert window.quote == same
