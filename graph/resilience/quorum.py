"""Replication: ask several, take what enough of them agree on, and do not wait for the rest.

    agreed = await Quorum("direction", replicas=3, quorum_size=2)(analyst, view)
    value = agreed.value

All replicas start at once. The answer stands as soon as the consensus finds it in the answers so far; the replicas
that are still running are then cancelled and awaited, so nothing outlives the call.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

from agents.errors import ConfigError, QuorumNotReached, UnusableAnswer
from graph.resilience.attempt import failure_of
from graph.resilience.events import GuardEvent, Observer, Observers, QuorumMissed, QuorumReached
from graph.resilience.invoke import invoke
from graph.resilience.outcome import brief, falls_through
from graph.resilience.timeout import forget_leaks

__all__ = ["UNDECIDED", "Agreement", "Consensus", "Quorum", "median", "vote", "within"]

T = TypeVar("T")


class _Undecided:
    def __repr__(self) -> str:
        return "UNDECIDED"


UNDECIDED: Final = _Undecided()
"""What a consensus returns while the answers so far do not settle it."""

Consensus = Callable[[Sequence[Any], int], Any]
"""(answers so far, in the order of their arrival; how many must agree) -> the agreed value, or UNDECIDED.

It may raise where an answer is of no use to it; that answer then counts as its replica's failure.
"""


def vote(answers: Sequence[Any], needed: int) -> Any:
    """Take the first answer that `needed` replicas gave, compared with ==."""
    newest = answers[-1]
    return newest if sum(answer == newest for answer in answers) >= needed else UNDECIDED


def median(answers: Sequence[Any], needed: int) -> Any:
    """Take the median of the first `needed` finite numbers: one wild answer of three then moves nothing."""
    numbers = _finite(answers)
    return _middle(numbers) if len(numbers) >= needed else UNDECIDED


def _finite(answers: Sequence[Any]) -> list[Any]:
    return [answer for answer in answers if math.isfinite(answer)]


def _middle(numbers: Sequence[Any]) -> Any:
    from statistics import median as middle  # noqa: PLC0415 - 5 ms of a cold start

    return middle(numbers)


def within(tolerance: float) -> Consensus:
    """Make a consensus: the median of the first `needed` numbers that lie within `tolerance` of each other."""

    def close(answers: Sequence[Any], needed: int) -> Any:
        ordered = sorted(_finite(answers))
        for low in range(len(ordered) - needed + 1):
            cluster = ordered[low : low + needed]
            if cluster[-1] - cluster[0] <= tolerance:
                return _middle(cluster)
        return UNDECIDED

    return close


@dataclass(frozen=True, slots=True)
class Agreement(Generic[T]):
    """The agreed `value`, every answer that had come by then (in order of arrival), and the errors of the failed."""

    value: T
    answers: tuple[T, ...]
    errors: tuple[Exception, ...]


@dataclass(slots=True)
class _Poll:
    answers: list[Any]
    errors: list[Exception]
    value: Any = UNDECIDED


class Quorum:
    """Runs replicas of an agent at the same time and returns what `quorum_size` of them agree on.

    Args:
        name: names it in events and errors.
        replicas: how many run when one function is given.
        quorum_size: how many must agree.
        consensus: `vote`, `median`, `within(tolerance)` or any function of that kind.
        observers: hear QuorumReached and QuorumMissed.

    Raises:
        ConfigError: the quorum could never be reached.
    """

    __slots__ = ("_consensus", "_name", "_needed", "_observers", "_replicas")

    def __init__(
        self,
        name: str,
        *,
        replicas: int = 3,
        quorum_size: int = 2,
        consensus: Consensus = vote,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._name, self._replicas, self._needed = name, replicas, quorum_size
        self._consensus = consensus
        self._observers = Observers(observers)
        self._check(replicas)

    async def __call__(
        self, agent: Callable[..., Any] | Sequence[Callable[..., Any]], /, *args: Any, **kwargs: Any
    ) -> Agreement[Any]:
        """Call `agent` (one function, `replicas` times; or a sequence of functions, each once) with these arguments.

        Raises:
            QuorumNotReached: all replicas ended and too few agreed; `errors` has every failed replica's error.
            Exception: a replica's refusal or control flow (see `outcome`), which no majority outvotes.
        """
        members = (agent,) * self._replicas if callable(agent) else tuple(agent)
        self._check(len(members))
        poll, task = _Poll([], []), cast("asyncio.Task[Any]", asyncio.current_task())
        pending = task.cancelling()
        try:
            async with asyncio.TaskGroup() as group:
                tasks: list[asyncio.Task[None]] = []
                ask = partial(self._ask, poll, tasks, args, kwargs)
                tasks.extend(group.create_task(ask(member)) for member in members)
        except BaseExceptionGroup as errors:
            forget_leaks(task, pending, errors)
            raise errors.exceptions[0] from None  # the first refusal ended it; the others were cancelled by it
        return self._result(poll, len(members))

    async def _ask(
        self,
        poll: _Poll,
        tasks: Sequence["asyncio.Task[None]"],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        member: Callable[..., Any],
    ) -> None:
        await asyncio.sleep(0)  # all stand before the first is asked, also where tasks are eager
        try:
            answer = await invoke(member, args, kwargs)
        except BaseException as error:
            failure = failure_of(self._name, error)
            if failure is None or (poll.value is UNDECIDED and not falls_through(failure)):
                raise
            if poll.value is UNDECIDED:
                poll.errors.append(failure)
            return
        if poll.value is not UNDECIDED:
            return  # it was being cancelled already, and answered all the same
        poll.answers.append(answer)
        self._decide(poll)
        if poll.value is not UNDECIDED:
            for task in tasks:
                if task is not asyncio.current_task():
                    task.cancel()

    def _decide(self, poll: _Poll) -> None:
        """Ask the consensus; where it raises, go on without the answers that it cannot work with."""
        try:
            poll.value = self._consensus(poll.answers, self._needed)
        except Exception as error:
            if not falls_through(error):
                raise
            self._drop(poll, error)

    def _drop(self, poll: _Poll, error: Exception) -> None:
        """Make failures of the answers that raise even where all agree on them; of the newest answer, if none does.

        The bad answer need not be the newest: it may have been noticed only when there were enough to look at.
        """
        alone = ((index, self._alone(answer)) for index, answer in enumerate(poll.answers))
        blamed = {index: why for index, why in alone if why is not None} or {len(poll.answers) - 1: error}
        poll.errors += [self._unusable(poll.answers[index], why) for index, why in blamed.items()]
        poll.answers[:] = [answer for index, answer in enumerate(poll.answers) if index not in blamed]

    def _alone(self, answer: Any) -> Exception | None:
        try:
            self._consensus([answer] * self._needed, self._needed)
        except Exception as error:  # noqa: BLE001 - it is told with the answer
            return error
        return None

    def _unusable(self, answer: Any, why: Exception) -> UnusableAnswer:
        unusable = UnusableAnswer(
            f"a replica of {self._name!r} answered with a {type(answer).__name__} that the consensus cannot work with "
            f"({brief(why)}); it counts as failed; see what the replica returns, or the consensus"
        )
        unusable.__cause__ = why
        return unusable

    def _result(self, poll: _Poll, asked: int) -> Agreement[Any]:
        counts = (len(poll.answers), len(poll.errors))
        event: type[QuorumReached | QuorumMissed] = QuorumMissed if poll.value is UNDECIDED else QuorumReached
        if self._observers.present:
            told: GuardEvent = event(self._name, self._name, asyncio.get_running_loop().time(), *counts)
            self._observers(told)
        if poll.value is not UNDECIDED:
            return Agreement(poll.value, tuple(poll.answers), tuple(poll.errors))
        raise QuorumNotReached(
            f"of {asked} replicas of {self._name!r} {counts[0]} answered and {counts[1]} failed, and no "
            f"{self._needed} agree; there is no answer; see `errors` for why they failed",
            tuple(poll.errors),
        ) from (ExceptionGroup(f"replicas of {self._name!r}", poll.errors) if poll.errors else None)

    def _check(self, replicas: int) -> None:
        if not 1 <= self._needed <= replicas:
            raise ConfigError(
                f"quorum {self._name!r} needs {self._needed} of {replicas} replicas, which cannot be; nothing was "
                "called; it must need at least 1 and at most all"
            )
