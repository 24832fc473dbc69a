"""What an error means: is it tried again, does the breaker count it, is the next link asked?

error                                                        retried   breaker    next link
AgentTimeout, AgentUnavailable, InjectedFault                yes       failure    yes
lost connections, time-outs, HTTP statuses for "later"       yes       failure    yes
other foreign errors (ValueError...), InvalidValue           no        failure    yes
FallbackExhausted, QuorumNotReached, AgentUnhealthy          no        failure    yes
UnusableAnswer: a mistake in the agent's code                no        failure    yes
DeadlineExceeded of a nested guard                           no        failure    yes
HTTP 4xx otherwise: another agent may serve the request      no        ignored    yes
BreakerOpen, BulkheadFull of a nested guard: no call         no        ignored    yes
BrokerUnavailable: a second broker might double the order    yes       failure    no
our other errors (OrderRefused...): a refusal is an answer   no        ignored    no
LangGraph's control flow (interrupt, command to a parent)    no        ignored    no
a cancellation that nobody asked for: AgentUnavailable       yes       failure    yes
any other, KeyboardInterrupt, SystemExit                     no        ignored    no
"""

import sys
from enum import StrEnum

from agents.errors import AgentError, BreakerOpen, BulkheadFull, HoldfastError, InvalidValue, is_retryable

__all__ = ["Outcome", "brief", "falls_through", "outcome_of", "told", "worth_retrying"]

_BRIEF_CHARACTERS = 200


class Outcome(StrEnum):
    """What a finished call says about the agent that was called."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


def worth_retrying(error: BaseException) -> bool:
    """`is_retryable`, and a group is worth it only if all that is in it is."""
    if isinstance(error, ExceptionGroup):
        return all(worth_retrying(inner) for inner in error.exceptions)
    try:
        return is_retryable(error)
    except Exception:  # noqa: BLE001 - an error whose status cannot be read has none
        return False


def outcome_of(error: BaseException) -> Outcome:
    """How the breaker scores this error; a group is a failure if anything in it is."""
    if isinstance(error, ExceptionGroup):
        inner = {outcome_of(each) for each in error.exceptions}
        return Outcome.FAILURE if Outcome.FAILURE in inner else Outcome.IGNORED
    if not isinstance(error, Exception) or _is_control_flow(error):
        return Outcome.IGNORED
    if isinstance(error, BreakerOpen | BulkheadFull):
        return Outcome.IGNORED
    if worth_retrying(error) or isinstance(error, AgentError | InvalidValue):
        return Outcome.FAILURE
    if isinstance(error, HoldfastError) or _is_client_mistake(error):
        return Outcome.IGNORED
    return Outcome.FAILURE


def falls_through(error: BaseException) -> bool:
    """Whether the next link, and in the end the last resort, may answer in place of this error.

    Of a group, only if it holds for all that is in it: a refusal is one also when it comes out of a task group.
    """
    if isinstance(error, ExceptionGroup):
        return all(falls_through(each) for each in error.exceptions)
    if not isinstance(error, Exception) or _is_control_flow(error):
        return False
    return not isinstance(error, HoldfastError) or isinstance(error, AgentError | InvalidValue)


def told(error: BaseException) -> str:
    """The error's text on one line, or its type's name where it has none, or none that can be read."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must still count, and be told of
        text = ""
    return text or type(error).__name__


def brief(error: BaseException) -> str:
    """Type and text on one short line, as in "ValueError: no such symbol"; the type alone where there is no text."""
    name, text = type(error).__name__, told(error)
    return name if text == name else f"{name}: {text}"[:_BRIEF_CHARACTERS]


def _is_client_mistake(error: Exception) -> bool:
    try:
        status = getattr(error, "status_code", None)
    except Exception:  # noqa: BLE001 - as above
        return False
    return isinstance(status, int) and 400 <= status < 500


def _is_control_flow(error: Exception) -> bool:
    # LangGraph speaks to its own loop by exceptions. It is not imported for this: if it is not loaded, none can arrive.
    module = sys.modules.get("langgraph.errors")
    return module is not None and isinstance(error, module.GraphBubbleUp)
