import asyncio

import pytest
from langgraph.errors import GraphInterrupt, GraphRecursionError

from agents import errors
from graph.resilience import Outcome, falls_through, outcome_of, worth_retrying
from graph.resilience.outcome import brief, told

FAILURE, IGNORED = Outcome.FAILURE, Outcome.IGNORED


class Http(Exception):
    def __init__(self, status_code):
        self.status_code = status_code


TABLE = [
    # error, tried again, the breaker's score, next link asked
    (errors.AgentTimeout(), True, FAILURE, True),
    (errors.AgentUnavailable(), True, FAILURE, True),
    (errors.InjectedFault(), True, FAILURE, True),
    (ConnectionResetError(), True, FAILURE, True),
    (TimeoutError(), True, FAILURE, True),
    (Http(503), True, FAILURE, True),
    (Http(429), True, FAILURE, True),
    (ExceptionGroup("", [ConnectionError(), TimeoutError()]), True, FAILURE, True),
    (ExceptionGroup("", [ConnectionError(), ValueError()]), False, FAILURE, True),
    (ExceptionGroup("", [errors.BrokerUnavailable(), ValueError()]), False, FAILURE, False),
    (ExceptionGroup("", [errors.OrderRefused()]), False, IGNORED, False),
    (ExceptionGroup("", [GraphInterrupt(())]), False, IGNORED, False),
    (ExceptionGroup("", [ExceptionGroup("", [errors.OrderConflict()])]), False, IGNORED, False),
    (ValueError(), False, FAILURE, True),
    (GraphRecursionError(), False, FAILURE, True),
    (errors.InvalidValue(), False, FAILURE, True),
    (errors.FallbackExhausted(""), False, FAILURE, True),
    (errors.QuorumNotReached(""), False, FAILURE, True),
    (errors.AgentUnhealthy(), False, FAILURE, True),
    (errors.UnusableAnswer(), False, FAILURE, True),
    (errors.DeadlineExceeded(), False, FAILURE, True),
    (Http(400), False, IGNORED, True),
    (Http(404), False, IGNORED, True),
    (errors.BreakerOpen(), False, IGNORED, True),
    (errors.BulkheadFull(), False, IGNORED, True),
    (errors.BrokerUnavailable(), True, FAILURE, False),
    (errors.OrderRefused(), False, IGNORED, False),
    (errors.OrderConflict(), False, IGNORED, False),
    (errors.CriticalDegradation(), False, IGNORED, False),
    (errors.ConfigError(), False, IGNORED, False),
    (errors.RunLeased(), False, IGNORED, False),
    (GraphInterrupt(()), False, IGNORED, False),
    (asyncio.CancelledError(), False, IGNORED, False),
    (KeyboardInterrupt(), False, IGNORED, False),
]


@pytest.mark.parametrize(("error", "again", "score", "falls"), TABLE, ids=lambda value: repr(value)[:40])
def test_what_each_error_means(error, again, score, falls):
    assert (worth_retrying(error), outcome_of(error), falls_through(error)) == (again, score, falls)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class NoText(Exception):
    def __str__(self):
        return None  # noqa: PLE0307 - it is wrong on purpose


@pytest.mark.parametrize(
    ("error", "text", "short"),
    [
        (ValueError("no such\n  symbol\t"), "no such symbol", "ValueError: no such symbol"),
        (ValueError(), "ValueError", "ValueError"),
        (ValueError(" \n"), "ValueError", "ValueError"),
        (KeyError("SIM"), "'SIM'", "KeyError: 'SIM'"),
        (Mute(), "Mute", "Mute"),
        (NoText(), "NoText", "NoText"),
        (ValueError(Mute()), "ValueError", "ValueError"),
        (ValueError("x" * 999), "x" * 999, "ValueError: " + "x" * 188),
        (asyncio.CancelledError(), "CancelledError", "CancelledError"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_told_of_an_error(error, text, short):
    assert (told(error), brief(error)) == (text, short)


def test_an_error_whose_status_cannot_be_read_is_a_failure_like_any_other():
    class Unread(Exception):
        @property
        def status_code(self):
            raise RuntimeError("the body was not read")

    error = Unread()
    assert (worth_retrying(error), outcome_of(error), falls_through(error)) == (False, FAILURE, True)


def test_every_agent_error_has_a_row():
    """A new error class must be given its meaning in the table, on purpose."""
    known = {type(row[0]) for row in TABLE} | {errors.AgentError}
    kinds = {getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert {kind for kind in kinds if issubclass(kind, errors.AgentError)} <= known
