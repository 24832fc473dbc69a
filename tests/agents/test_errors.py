import asyncio
import copy
import re

import pytest

from agents import errors
from agents.errors import (
    AgentTimeout,
    AgentUnavailable,
    BrokerUnavailable,
    CheckpointDamaged,
    DeadlineExceeded,
    FallbackExhausted,
    HoldfastError,
    InjectedFault,
    InputError,
    InvalidValue,
    QuorumNotReached,
    is_retryable,
)

CLASSES = {name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Exception)}


def _drawn() -> dict[str, tuple[str, bool]]:
    """The tree of the docstring: name -> (parent, marked with a star)."""
    drawn: dict[str, tuple[str, bool]] = {}
    above: list[tuple[int, str]] = [(0, "HoldfastError")]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([\s│]*)[├└]── (\w+)\s*(\*?)", line)
        if found:
            depth, name = len(found[1]), found[2]
            above = [each for each in above if each[0] < depth]
            drawn[name] = (above[-1][1], bool(found[3]))
            above.append((depth, name))
    return drawn


class TestTree:
    def test_the_drawing_is_the_tree(self):
        real = {
            name: (each.__mro__[1].__name__, each.retryable)
            for name, each in CLASSES.items()
            if each is not HoldfastError
        }
        assert _drawn() == real

    def test_every_class_is_public_and_ours(self):
        assert {*CLASSES, "is_retryable"} == set(errors.__all__)
        assert all(issubclass(each, HoldfastError) for each in CLASSES.values())

    def test_a_bad_value_is_also_what_python_calls_one(self):
        assert issubclass(InvalidValue, InputError)
        assert issubclass(InvalidValue, ValueError)

    @pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
    def test_each_carries_its_message_and_can_be_copied(self, kind):
        assert str(copy.copy(kind("what, so, do this"))) == "what, so, do this"

    def test_details_travel_with_the_error(self):
        causes = (ValueError("a"), OSError("b"))
        assert FallbackExhausted("m", causes).errors == causes
        assert QuorumNotReached("m", causes).errors == causes
        assert (FallbackExhausted("m").errors, QuorumNotReached("m").errors) == ((), ())
        assert CheckpointDamaged("m", undamaged="c1").undamaged == "c1"
        assert CheckpointDamaged("m").undamaged is None


class _Answered(Exception):
    def __init__(self, status_code: object) -> None:
        super().__init__("answered")
        self.status_code = status_code


class TestRetryable:
    @pytest.mark.parametrize("kind", [AgentTimeout, AgentUnavailable, BrokerUnavailable, InjectedFault])
    def test_ours_that_say_so(self, kind):
        assert is_retryable(kind("m"))

    def test_a_used_up_deadline_is_a_timeout_that_trying_again_cannot_help(self):
        assert isinstance(DeadlineExceeded("m"), TimeoutError)
        assert not is_retryable(DeadlineExceeded("m"))

    @pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), TimeoutError()], ids=repr)
    def test_lost_connections_and_time_outs(self, error):
        assert is_retryable(error)

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
    def test_answers_that_mean_later(self, status):
        assert is_retryable(_Answered(status))

    @pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 422, 501, None, "503", True, 503.0, [503]])
    def test_answers_that_mean_no(self, status):
        assert not is_retryable(_Answered(status))

    @pytest.mark.parametrize(
        "error", [ValueError(), OSError(), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr
    )
    def test_nothing_else(self, error):
        assert not is_retryable(error)
