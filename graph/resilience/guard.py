"""The guard: every protection of one agent in one object, about as cheap as nothing at all while all goes well."""

import asyncio
import functools
import inspect
import math
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from threading import get_ident
from types import CodeType
from typing import Any, Generic, Self, TypeVar

from agents.clock import monotonic
from agents.errors import BreakerOpen, BulkheadFull, ConfigError
from graph.resilience.attempt import (
    Link,
    abandon,
    agent_timeout,
    breaker_open,
    failure_of,
    not_accepted,
    score,
)
from graph.resilience.breaker import Breaker, BreakerState, CircuitBreaker
from graph.resilience.chain import Call
from graph.resilience.events import (
    AttemptStarted,
    AttemptSucceeded,
    BreakerClosed,
    BreakerHalfOpened,
    BreakerOpened,
    CallRejected,
    GuardEvent,
    Observer,
    Observers,
)
from graph.resilience.faults import FaultPlan, is_number, shown
from graph.resilience.invoke import check_guardable
from graph.resilience.retry import JITTER, Retry, without_backoff
from graph.resilience.timeout import (
    SCOPE,
    DeadlineQueue,
    Scope,
    current_task,
    forget_leaks,
    take_back,
    without_cancellation,
)

__all__ = ["Answer", "Guard"]

T = TypeVar("T")
CLOSED = BreakerState.CLOSED
_SCOPE_GET, _SCOPE_SET = SCOPE.get, SCOPE.set  # bound once: to bind a method takes longer than these two do
_RETRY, _BREAKER = Retry(), Breaker()


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A guarded call's result and its record: who answered, after how many attempts and which errors (one a link)."""

    value: T
    link: str
    attempts: int
    errors: tuple[Exception, ...]
    seconds: float


def _loop_time() -> float:
    try:
        return get_running_loop().time()
    except RuntimeError:
        return monotonic()


def _is_limit(value: Any) -> bool:
    return is_number(value) and value > 0


class Guard:
    """Calls an agent (any function, synchronous or not, or a LangGraph node) so that its failure stays contained.

    Args:
        name: names the primary's link and breaker, the events, and the target of faults.
        deadline: seconds for everything together: all attempts, waits and fallbacks. A guard inside another one's
            call has at most what is left of that one's.
        attempt_timeout: seconds for one attempt.
        retry: None never tries again.
        breaker: the policy from which every link gets a breaker of its own; None for no breakers.
        fallbacks: asked in this order, with the same arguments, when the primary has failed.
        last_resort: called with the same arguments when all links failed, or the deadline expired, or the bulkhead is
            full. It must be local and quick: no deadline bounds it.
        bulkhead: at most so many calls at the same time; one more is refused at once.
        observers: called with a `GuardEvent` for all that happens.
        faults: a plan of faults to inject.
        accept: says whether an answer is one; where it returns False, the attempt has failed.
        clock: seconds, for breakers and events; the running loop's own by default, so that virtual time is followed.
            Timeouts always follow the loop.
        sleep: waits between attempts.
        random: draws the jitter; an unseeded one by default, for processes must not retry in step.

    A guard serves one event loop at a time, and any number of concurrent calls on it. It is shared by design, as a
    function is: a copy of a guard, or a deep copy of what holds one, is the guard itself.

    Raises:
        ConfigError: when made: a limit is not a positive number, or a function cannot be guarded: a generator function
            begins its work only when the call is over. When called: the primary is one.
        FallbackExhausted: when called: there are fallbacks, and all failed; the cause is a group of all links' errors.
        DeadlineExceeded: the total time is used up.
        BulkheadFull: too many calls at once.
        Exception: with no fallback, the last error of the primary itself, with a note on the attempts: an AgentTimeout
            where it took too long, BreakerOpen where it was not called. See `outcome` for what each error means.
    """

    __slots__ = (
        "_alone",
        "_breaker",
        "_budget",
        "_known",
        "_limit",
        "_observed",
        "_one_clock",
        "_places",
        "_plain",
        "_queue",
        "_running",
        "accept",
        "attempt_timeout",
        "breakers",
        "clock",
        "deadline",
        "faults",
        "last_resort",
        "links",
        "name",
        "observers",
        "random",
        "retry",
        "sleep",
    )

    def __init__(
        self,
        name: str,
        *,
        deadline: float | None = None,
        attempt_timeout: float | None = 30.0,
        retry: Retry | None = _RETRY,
        breaker: Breaker | None = _BREAKER,
        fallbacks: Iterable[Callable[..., Any]] = (),
        last_resort: Callable[..., Any] | None = None,
        bulkhead: int | None = None,
        observers: Iterable[Observer] = (),
        faults: FaultPlan | None = None,
        accept: Callable[[Any], bool] | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        for what, value in (("deadline", deadline), ("attempt_timeout", attempt_timeout), ("bulkhead", bulkhead)):
            if value is not None and not _is_limit(value):
                raise ConfigError(
                    f"guard {name!r} has {what} {shown(value)}, and was not made; "
                    "it must be a finite number above 0, or None"
                )
        fallbacks = tuple(fallbacks)
        for fn in (*fallbacks, last_resort):
            if fn is not None:
                check_guardable(fn)
        self.name = name
        self.deadline, self.attempt_timeout = deadline, attempt_timeout
        self.retry = retry
        self.last_resort = last_resort
        self.observers = Observers(observers)
        self.faults = faults
        self.accept = accept
        self.clock = clock or _loop_time
        self.sleep = sleep
        self.random = random or JITTER
        self.links = self._make_links(breaker, fallbacks)
        self.breakers: Mapping[str, CircuitBreaker] = {
            link.name: link.breaker for link in self.links if link.breaker is not None
        }
        self._places = math.inf if bulkhead is None else bulkhead
        self._running = 0
        self._breaker = self.links[0].breaker
        self._alone = len(self.links) == 1 and last_resort is None
        self._budget = None if retry is None else retry.budget
        self._limit = min(attempt_timeout or math.inf, deadline or math.inf)
        self._plain = self._limit < math.inf and faults is None
        self._one_clock = clock is None  # breakers read the same clock as timeouts
        self._observed = self.observers.present
        self._known: Callable[..., Any] | None = None
        self._queue = DeadlineQueue(None, 0)

    def __copy__(self) -> Self:
        """The guard itself: a second one would let through again what this one holds back."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The guard itself; see `__copy__`."""
        return self

    testing = staticmethod(without_backoff)
    """`with Guard.testing(): ...` switches the waiting between attempts off, for every guard."""

    async def __call__(  # noqa: C901, PLR0912, PLR0915 - inlined: at this price a function call is 5 %
        self, primary: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Call `primary(*args, **kwargs)` under all protections and return its answer, or that of a fallback."""
        # This is the first attempt; when it has failed, and in every unusual situation, a Call goes on (see chain).
        breaker = self._breaker
        if breaker is None:
            epoch = 0
        elif breaker.state is CLOSED:
            epoch = breaker.epoch
        else:
            if self._alone and (seconds_left := breaker.open_seconds_left()) > 0:
                raise self._refused(breaker, seconds_left)
            return (await self.ask(primary, *args, **kwargs)).value
        queue = self._queue
        task = current_task(queue.loop)
        if task is None or get_ident() != queue.thread:
            queue = self._follow_loop()
            task = current_task(queue.loop)
        scope = _SCOPE_GET()
        while scope is not None and scope[0] is None:
            scope = scope[1]
        now = queue.now
        started = now()
        when = started + self._limit
        if (
            task is None
            or (primary is not self._known and not self._is_plain(primary))
            or self._running >= self._places
            or (scope is not None and scope[0] < when)
            or task in (entries := queue.entries)  # this task is inside of this guard already
        ):
            return (await self.ask(primary, *args, **kwargs)).value
        baseline = task.cancelling()
        budget = self._budget
        if budget is not None and budget.tokens < budget.reserve:
            budget.deposit()
        inner: Scope = [None, scope, when]
        # What these two lines take is given back on every way out: nothing that could raise may stand before the try.
        entries[task] = inner
        self._running += 1
        try:
            if queue.handle is None:
                queue.arm(when)
            if self.deadline is not None:
                until = started + self.deadline
                inner[0] = until if scope is None or until < scope[0] else scope[0]
                _SCOPE_SET(inner)
            if self._observed:
                self.observers(AttemptStarted(self.name, self.name, self.clock(), 1))
            value = await (primary(*args, **kwargs) if kwargs else primary(*args))
            if self.accept is not None and not self.accept(value):
                raise not_accepted(self.name, value)  # noqa: TRY301 - it is scored like any failure
        except BaseException as error:
            self._running -= 1
            inner[0] = None
            strikes = take_back(task, inner) if entries.pop(task, None) is None else 0
            failure = self._first_failed(error, task, baseline, epoch, strikes=strikes, seconds=now() - started)
            if failure is None:
                raise
        else:
            self._running -= 1
            inner[0] = None
            try:
                del entries[task]
            except KeyError:  # the time was up, but the callee did not mind its cancellation and answered
                take_back(task, inner)
            if self._observed:
                self.observers(AttemptSucceeded(self.name, self.name, self.clock(), 1, now() - started))
            if breaker is not None and breaker.epoch == epoch:
                window = breaker.window
                if window is None:  # then the clock, a twentieth of all this, need not be read
                    breaker.failures = 0
                    breaker.answers += 1
                else:
                    ended = now()
                    if self._one_clock and ended < window.until and ended - started <= window.slow_seconds:
                        window.bucket[1] += 1
                        breaker.failures = 0
                        breaker.answers += 1
                    else:
                        breaker.success(epoch, ended - started)
            return value
        call = Call(self, primary, args, kwargs)
        call.resume(started, baseline, failure)
        del failure  # errors hold this frame, and must not be held by it
        return (await self._answer(call)).value

    def _first_failed(
        self,
        error: BaseException,
        task: "asyncio.Task[Any]",
        baseline: int,
        epoch: int,
        *,
        strikes: int,
        seconds: float,
    ) -> Exception | None:
        """Score the failed first attempt; return what to go on with along the chain, or None to raise it as it is."""
        late: float | None = None
        forget_leaks(task, baseline, error)
        left: BaseException | None = error
        if strikes and task.cancelling() <= baseline:
            left = without_cancellation(error)
        if left is None:
            late = self._limit if self._limit == self.attempt_timeout and strikes == 1 else None
            failure: Exception | None = agent_timeout(self.name, self._limit if strikes == 1 else seconds, error)
        else:
            failure = failure_of(self.name, left, task)
        if failure is None:
            abandon(self, self.links[0], epoch, 1, seconds)
            return None
        score(self, self.links[0], epoch, 1, seconds=seconds, error=failure, limit_seconds=late)
        return failure

    def _is_plain(self, primary: Callable[..., Any]) -> bool:
        """Whether the inlined way is open to this primary: a coroutine function, and no faults; remember the answer."""
        code = getattr(primary, "__code__", None)
        if not self._plain or type(code) is not CodeType or not code.co_flags & inspect.CO_COROUTINE:
            return False
        self._known = primary
        return True

    def _follow_loop(self) -> DeadlineQueue:
        self._queue = DeadlineQueue(get_running_loop(), get_ident())
        if self._breaker is not None and self._breaker.window is not None:
            self._breaker.window.until = -math.inf  # of the last loop's clock, by which this one's calls cannot count
        return self._queue

    async def ask(self, primary: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Answer[Any]:
        """Like calling the guard, but the answer comes with its record."""
        return await self._answer(Call(self, primary, args, kwargs))

    def use_faults(self, faults: FaultPlan | None) -> FaultPlan | None:
        """From now on inject by this plan, or not at all; returns the plan until now. For tests of guards in use."""
        before, self.faults = self.faults, faults
        self._plain = self._limit < math.inf and faults is None
        self._known = None
        return before

    async def _answer(self, call: Call) -> Answer[Any]:
        try:
            value = await self._run(call)
            return Answer(value, call.link, call.attempts, tuple(call.errors), call.seconds)
        finally:
            call.errors.clear()

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Return an async function with the name, signature and annotations of `fn` that calls it through this guard.

        Fit for `StateGraph.add_node`: LangGraph finds in it what it would find in `fn`. As it is always async, the
        graph is run by `ainvoke` or `astream`.

        Raises:
            ConfigError: `fn` cannot be called, or is a generator function.
        """
        check_guardable(fn)

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            return await self(fn, *args, **kwargs)

        functools.update_wrapper(guarded, fn)
        if not hasattr(fn, "__name__"):
            guarded.__name__ = guarded.__qualname__ = self.name
        if not inspect.isroutine(fn):  # a partial, or an object with a __call__
            called = getattr(fn, "func", None) or type(fn).__call__
            guarded.__annotations__ = {k: v for k, v in inspect.get_annotations(called).items() if k != "self"}
            guarded.__dict__.pop("__wrapped__", None)
        try:
            guarded.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
        except ValueError:  # some of Python's own functions have none: then it is that of `guarded`
            guarded.__dict__.pop("__wrapped__", None)
        return guarded

    async def _run(self, call: Call) -> Any:
        if self._running >= self._places:
            full = self._full()
            if self.last_resort is None:
                raise full
            return await call.answer_locally(full)
        self._running += 1
        try:
            return await call.run()
        finally:
            self._running -= 1

    def _refused(self, breaker: CircuitBreaker, seconds_left: float) -> BreakerOpen:
        if self.observers.present:
            self.observers(CallRejected(self.name, self.name, self.clock(), "breaker"))
        return breaker_open(breaker, seconds_left)

    def _full(self) -> BulkheadFull:
        if self.observers.present:
            self.observers(CallRejected(self.name, self.name, self.clock(), "bulkhead"))
        return BulkheadFull(
            f"{self.name!r} is running {self._running} calls already, as many as its bulkhead allows; "
            "this one was not made; call later, or raise the bulkhead"
        )

    def _make_links(self, policy: Breaker | None, fallbacks: tuple[Callable[..., Any], ...]) -> tuple[Link, ...]:
        names = [self.name]
        for number, fn in enumerate(fallbacks, 1):
            name = f"{self.name}/{getattr(fn, '__name__', '<lambda>')}"
            names.append(f"{self.name}/fallback-{number}" if name in names or name.endswith("<lambda>") else name)
        watch = self._breaker_changed if self.observers.present else None
        return tuple(
            Link(name, fn, None if policy is None else CircuitBreaker(name, policy, clock=self.clock, on_change=watch))
            for name, fn in zip(names, (None, *fallbacks), strict=True)
        )

    def _breaker_changed(self, breaker: CircuitBreaker) -> None:
        where = (self.name, breaker.name, self.clock())
        if breaker.state is BreakerState.CLOSED:
            event: GuardEvent = BreakerClosed(*where)
        elif breaker.state is BreakerState.HALF_OPEN:
            event = BreakerHalfOpened(*where)
        else:
            event = BreakerOpened(*where, breaker.reason, breaker.open_seconds_left())
        self.observers(event)
