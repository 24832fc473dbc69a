"""Graceful degradation: go on with those who answer, say how much is missing, and stop when it is too much.

How much is too much, and what makes which level, stands in `agents.degradation`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from agents.degradation import CRITICAL_PERCENT, level_of, too_many_missing
from agents.errors import ConfigError, CriticalDegradation
from graph.resilience.attempt import failure_of
from graph.resilience.events import Degraded, Observer, Observers
from graph.resilience.invoke import invoke
from graph.resilience.outcome import falls_through
from graph.resilience.timeout import forget_leaks

__all__ = ["Degradation", "Ladder", "Roll"]


@dataclass(frozen=True, slots=True)
class Roll:
    """Who answered what, who failed and why, and the level that follows from it."""

    answers: Mapping[str, Any]
    failed: Mapping[str, Exception]
    level: int


class Ladder:
    """A level with hysteresis: it gets worse at once, and better by one step only after `recover_after` better looks.

    So the system heals by itself when members answer again, and one lucky round does not switch it to and fro.
    """

    __slots__ = ("_better", "level", "recover_after")

    def __init__(self, recover_after: int = 3) -> None:
        if recover_after < 1:
            raise ConfigError(
                f"a ladder recovers after {recover_after!r} looks, and was not made; it must be 1 or more"
            )
        self.recover_after = recover_after
        self.level = 0
        self._better = 0  # better looks in a row

    def observe(self, level: int) -> int:
        """Take in the level of the latest round; return the level to work at now."""
        if level >= self.level:
            self.level, self._better = level, 0
            return self.level
        self._better += 1
        if self._better >= self.recover_after:
            self.level, self._better = self.level - 1, 0
        return self.level


@dataclass(slots=True)
class _Round:
    answers: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


class Degradation:
    """Asks required and optional members, all at the same time, and goes on with those who answer.

    Args:
        name: names it in events and errors.
        ladder: keeps the level over several rounds; without one every round stands for itself.
        observers: hear Degraded at every level above 0, and once when the level is 0 again.
    """

    __slots__ = ("_ladder", "_name", "_observers", "_was_full")

    def __init__(self, name: str, *, ladder: Ladder | None = None, observers: Iterable[Observer] = ()) -> None:
        self._name = name
        self._ladder = ladder
        self._observers = Observers(observers)
        self._was_full = True

    async def __call__(
        self,
        required: Mapping[str, Callable[..., Any]],
        optional: Mapping[str, Callable[..., Any]],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Roll:
        """Call every member with these arguments; wrap members in guards, for nothing here bounds them.

        Raises:
            CriticalDegradation: more than 30 % of the required members failed; the cause is a group of their errors.
            ConfigError: a name is both required and optional.
            Exception: a member's refusal or control flow (see `outcome`).
        """
        if both := sorted(required.keys() & optional.keys()):
            raise ConfigError(f"{', '.join(both)} would be required and optional in {self._name!r}; nothing was called")
        members = {**required, **optional}
        heard, task = _Round(), cast("asyncio.Task[Any]", asyncio.current_task())
        pending = task.cancelling()
        try:
            async with asyncio.TaskGroup() as group:
                for name, member in members.items():
                    group.create_task(self._ask(heard, name, member, args, kwargs))
        except BaseExceptionGroup as errors:
            forget_leaks(task, pending, errors)
            raise errors.exceptions[0] from None
        # In the order of asking, not of arrival: what follows from a round must not depend on who was faster.
        answers = {name: heard.answers[name] for name in members if name in heard.answers}
        failed = {name: heard.failed[name] for name in members if name in heard.failed}
        return self._judge(required, Roll(answers, failed, level_of(len(answers), len(members))))

    async def _ask(
        self, heard: _Round, name: str, member: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        await asyncio.sleep(0)  # all stand before the first is asked, also where tasks are eager
        try:
            heard.answers[name] = await invoke(member, args, kwargs)
        except BaseException as error:
            failure = failure_of(name, error)
            if failure is None or not falls_through(failure):
                raise
            heard.failed[name] = failure

    def _judge(self, required: Mapping[str, Callable[..., Any]], roll: Roll) -> Roll:
        missing = [name for name in roll.failed if name in required]
        critical = too_many_missing(len(missing), len(required))
        level = 2 if critical else roll.level
        if self._ladder is not None:
            level = self._ladder.observe(level)
        self._tell(level, tuple(roll.failed))
        if critical:
            raise CriticalDegradation(
                f"{len(missing)} of {len(required)} required members of {self._name!r} failed ({', '.join(missing)}), "
                f"more than {CRITICAL_PERCENT} %; no answer is given; resume when they work again"
            ) from ExceptionGroup("the required members' errors", [roll.failed[name] for name in missing])
        return Roll(roll.answers, roll.failed, level)

    def _tell(self, level: int, failed: tuple[str, ...]) -> None:
        if self._observers.present and not (level == 0 and self._was_full):
            self._observers(Degraded(self._name, self._name, asyncio.get_running_loop().time(), level, failed))
        self._was_full = level == 0
