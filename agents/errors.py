"""Every error that Holdfast raises, in one tree.

    HoldfastError
    ├── InputError               what the user gave cannot be used (exit code 2)
    │   ├── InvalidValue         a domain value broke its own rules
    │   ├── BadBars              a price file that is no history of bars, or of quotes
    │   ├── BadArchive           a file that is no run that was exported, or not whole
    │   └── ConfigError          a setting or flag that does not exist or does not fit
    ├── AgentError               a guarded call went wrong
    │   ├── AgentTimeout         * no answer in time
    │   ├── AgentUnavailable     * the agent could not be reached, or its answer is damaged
    │   ├── UnusableAnswer       the agent's code returned something that is no answer
    │   ├── BreakerOpen          the circuit breaker refuses the call
    │   ├── DeadlineExceeded     the total time of a guarded call is used up
    │   ├── FallbackExhausted    the primary and every fallback failed
    │   ├── InjectedFault        * an error that a fault plan asked for
    │   ├── BulkheadFull         as many calls as are allowed at once are running already
    │   ├── QuorumNotReached     too few replicas agreed
    │   └── AgentUnhealthy       the agent did not become healthy in time
    ├── PolicyError
    │   ├── PolicyUnusable       a bundle that cannot be loaded, or must not be
    │   └── PolicyFault          no action follows from the policy's input, or from what it put out
    ├── CriticalDegradation      too many required analysts are missing
    ├── OrderError
    │   ├── OrderConflict        this decision has already sent a different order
    │   ├── OrderRefused         the broker said no, for good
    │   └── BrokerUnavailable    * no answer, or none that can be trusted: the order's fate is unknown
    ├── FeedError
    │   ├── LinkLost             * a connection to a venue broke, or could not be made
    │   └── FeedDead             a stream of market data failed too often in a row
    ├── RunError
    │   ├── CheckpointNotFound   no run or checkpoint has this id
    │   ├── RunLeased            another process is running this run
    │   ├── LeaseLost            this process was running this run, and another may have taken it over
    │   └── FingerprintMismatch  the run was started by a workflow of another shape
    └── StorageError             the database cannot be opened, read or written
        └── CheckpointDamaged    a stored row is not what was written

Errors marked * are `retryable`. Whether to try again is a property of the class, not of the place that catches it.
"""

from typing import ClassVar

__all__ = [
    "AgentError",
    "AgentTimeout",
    "AgentUnavailable",
    "AgentUnhealthy",
    "BadArchive",
    "BadBars",
    "BreakerOpen",
    "BrokerUnavailable",
    "BulkheadFull",
    "CheckpointDamaged",
    "CheckpointNotFound",
    "ConfigError",
    "CriticalDegradation",
    "DeadlineExceeded",
    "FallbackExhausted",
    "FeedDead",
    "FeedError",
    "FingerprintMismatch",
    "HoldfastError",
    "InjectedFault",
    "InputError",
    "InvalidValue",
    "LeaseLost",
    "LinkLost",
    "OrderConflict",
    "OrderError",
    "OrderRefused",
    "PolicyError",
    "PolicyFault",
    "PolicyUnusable",
    "QuorumNotReached",
    "RunError",
    "RunLeased",
    "StorageError",
    "UnusableAnswer",
    "is_retryable",
]


class HoldfastError(Exception):
    """The root: `except HoldfastError` catches everything this project raises on purpose."""

    retryable: ClassVar[bool] = False


class InputError(HoldfastError): ...


class InvalidValue(InputError, ValueError): ...


class BadBars(InputError): ...


class BadArchive(InputError): ...


class ConfigError(InputError): ...


class AgentError(HoldfastError): ...


class AgentTimeout(AgentError, TimeoutError):
    retryable = True


class AgentUnavailable(AgentError):
    retryable = True


class BreakerOpen(AgentError): ...


class UnusableAnswer(AgentError):
    """The agent answered, and it is no answer: a mistake in its code, which asking again does not mend."""


class DeadlineExceeded(AgentError, TimeoutError): ...


class FallbackExhausted(AgentError):
    """The primary and every fallback failed; `errors` holds one error per link, in the order they were tried."""

    def __init__(self, message: str, errors: tuple[Exception, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class InjectedFault(AgentError):
    retryable = True


class BulkheadFull(AgentError): ...


class QuorumNotReached(AgentError):
    """Too few replicas agreed; `errors` holds the error of every replica that failed."""

    def __init__(self, message: str, errors: tuple[Exception, ...] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class AgentUnhealthy(AgentError): ...


class PolicyError(HoldfastError): ...


class PolicyUnusable(PolicyError): ...


class PolicyFault(PolicyError): ...


class CriticalDegradation(HoldfastError): ...


class OrderError(HoldfastError): ...


class OrderConflict(OrderError): ...


class OrderRefused(OrderError): ...


class BrokerUnavailable(OrderError):
    retryable = True


class FeedError(HoldfastError): ...


class LinkLost(FeedError):
    retryable = True


class FeedDead(FeedError): ...


class RunError(HoldfastError): ...


class CheckpointNotFound(RunError): ...


class RunLeased(RunError): ...


class LeaseLost(RunError): ...


class FingerprintMismatch(RunError): ...


class StorageError(HoldfastError): ...


class CheckpointDamaged(StorageError):
    """A stored row is not what was written; `undamaged` names the newest older checkpoint that is whole, if any."""

    def __init__(self, message: str, *, undamaged: str | None = None) -> None:
        super().__init__(message)
        self.undamaged = undamaged


_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


def is_retryable(error: BaseException) -> bool:
    """Whether trying the same call again can help.

    Our own errors say so themselves. Of foreign ones, lost connections and time-outs are worth another try, and so
    is whatever carries an HTTP status that means "later" (most model clients' errors do, as `status_code`).
    """
    if isinstance(error, HoldfastError):
        return error.retryable
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and status in _RETRYABLE_STATUS
