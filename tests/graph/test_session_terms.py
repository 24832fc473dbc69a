"""The limits of a session: none that nothing could be run by."""

from dataclasses import fields

import pytest

from agents.errors import ConfigError
from graph.session_terms import SessionTerms


@pytest.mark.parametrize("name", [each.name for each in fields(SessionTerms)])
@pytest.mark.parametrize("value", [-2, float("nan"), float("inf"), True])
def test_a_number_that_is_no_limit_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"the session's {name} is {value}"):
        SessionTerms(**{name: value})


def test_only_the_trailing_stop_may_be_nothing():
    assert SessionTerms(trail_atr=0.0).trail_atr == 0
    for name in ("queue_size", "heartbeat", "drain", "losses_max"):
        with pytest.raises(ConfigError, match=name):
            SessionTerms(**{name: 0})


def test_what_is_counted_is_whole():
    with pytest.raises(ConfigError, match=r"queue_size is 1\.5"):
        SessionTerms(queue_size=1.5)


def test_what_halts_comes_after_what_reduces():
    with pytest.raises(ConfigError, match="stale_halt is 5, below stale_reduce of 10"):
        SessionTerms(stale_halt=5.0)


def test_the_queue_holds_fifty_by_default():
    assert SessionTerms().queue_size == 50
