"""Faults on purpose: a seeded plan of errors, delays, hangs, corrupt results and kills, applied inside a guard.

    FaultPlan.parse(["strategy=kill", "trend=error:0.3", "volume=latency:2.5", "macro=hang@2"], seed=7)
    FaultPlan.from_toml(Path("plan.toml"))

A plan acts on *links*: the primary's link has the guard's name ("trend"), a fallback's is "trend/rules". Targets are
fnmatch patterns, so "trend" leaves the fallbacks alone and "trend*" does not. Every attempt is a call of its own,
retries included, and is counted per link; what happens to a link's n-th call depends on the seed, the link and n
alone, not on what ran beside it.
"""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

from agents.errors import ConfigError, InjectedFault

__all__ = ["KILL_GRACE_SECONDS", "Corrupted", "Fault", "FaultAction", "FaultPlan", "is_number", "shown"]

KILL_GRACE_SECONDS = 0.25
"""How long a kill waits after the call is done, so that siblings' results reach the disk, and this one's does not."""


class FaultAction(StrEnum):
    """What is done to a call.

    error: InjectedFault is raised, the call is not made. hang: it never returns, until it is cancelled. latency: it
    begins later. corrupt: it is made, and its result is replaced. kill: it is made, and then this process is killed
    (SIGKILL): the worst moment, for the work is done and its result is not saved.
    """

    ERROR = "error"
    HANG = "hang"
    LATENCY = "latency"
    CORRUPT = "corrupt"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Corrupted:
    """What a corrupted call returns: nothing that a consumer can mistake for an answer. `original` is the true one."""

    original: Any


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of a plan: what to do, to whom, and when.

    `rate` is the share of calls that are hit; `seconds` the length of a latency, and 0 for all else; `nth` (1 is the
    first) limits it to that call of the link; `from_seconds` and `until_seconds` to a span since the plan's first call.

    Raises:
        ConfigError: a field has a value that no fault can have.
    """

    target: str
    action: FaultAction
    rate: float = 1.0
    seconds: float = 0.0
    nth: int | None = None
    from_seconds: float = 0.0
    until_seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.action not in tuple(FaultAction):
            raise ConfigError(
                f"the fault on {shown(self.target)} has the action {shown(self.action)}, which does not exist, and "
                f"nothing was run; it must be one of {', '.join(FaultAction)}"
            )
        object.__setattr__(self, "action", FaultAction(self.action))
        for name, good, wanted in self._rules():
            if not good:
                raise ConfigError(
                    f"the {self.action} on {shown(self.target)} has {name} {shown(getattr(self, name))}, and nothing "
                    f"was run; it must be {wanted}"
                )

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Field, whether it is right, and what it must be; a rule may rely on those before it."""
        yield "target", isinstance(self.target, str) and self.target != "", "a guard's name or pattern"
        yield "rate", is_number(self.rate) and 0 <= self.rate <= 1, "a number between 0 and 1"
        if self.action is FaultAction.LATENCY:
            yield (
                "seconds",
                is_number(self.seconds) and self.seconds > 0,
                "a finite number above 0: how late a call begins",
            )
        else:
            yield "seconds", is_number(self.seconds) and self.seconds == 0, "left out: only a latency has seconds"
        nth = 1 if self.nth is None else self.nth
        counted = isinstance(nth, int) and is_number(nth) and 1 <= nth < 10**9
        yield "nth", counted, "a whole number from 1 to 999999999"
        yield "from_seconds", is_number(self.from_seconds) and self.from_seconds >= 0, "a finite number, 0 or more"
        endless = self.until_seconds == math.inf
        later = endless or (is_number(self.until_seconds) and self.until_seconds > self.from_seconds)
        yield "until_seconds", later, "later than from_seconds"


class FaultPlan:
    """A seeded list of faults, and the count of calls it has seen. One plan may serve all guards of an application.

    As a file, with everything that a fault may have:

        seed = 7                    # of the rates; 0 where it is left out

        [[fault]]
        target = "trend"            # a guard's name or fnmatch pattern; "trend/*" are its fallbacks
        action = "error"            # or hang, latency, corrupt, kill
        rate = 0.3                  # 3 of 10 calls; every call where it is left out

        [[fault]]
        target = "volume"
        action = "latency"
        seconds = 2.5               # how late; for latency alone
        nth = 4                     # only the fourth call of the link, retries counted

        [[fault]]
        target = "broker"
        action = "hang"
        from_seconds = 30           # a schedule: an outage that begins half a minute after the plan's first call,
        until_seconds = 90          # and lasts for one

    A fault strikes where all of its conditions hold. Where several strike one call, each does, in their order.

    Args:
        faults: applied in this order where several match.
        seed: decides which calls a rate below 1 hits.
        corrupt: makes the corrupt result from the true one; `Corrupted` by default.

    Raises:
        ConfigError: the seed is no whole number, or one of more than 63 bits.
    """

    def __init__(
        self, faults: Iterable[Fault] = (), *, seed: int = 0, corrupt: Callable[[Any], Any] = Corrupted
    ) -> None:
        if not (isinstance(seed, int) and is_number(seed) and abs(seed) < 2**63):
            raise ConfigError(
                f"a fault plan has the seed {shown(seed)}, and nothing was run; it must be a whole number below 2**63"
            )
        self.faults = tuple(faults)
        self.seed = seed
        self._corrupt = corrupt
        self._calls: dict[str, int] = {}  # link -> calls so far; bounded by the number of links
        self._dice: dict[tuple[int, str], Random] = {}
        self._began_at: float | None = None

    @classmethod
    def parse(cls, texts: Iterable[str], *, seed: int = 0) -> "FaultPlan":
        """Read the command line's form: `TARGET=ACTION[:VALUE][@N]`; VALUE is a rate, or the seconds of a latency.

        Raises:
            ConfigError: a text does not have this form.
        """
        return cls([_parse_fault(text) for text in texts], seed=seed)

    @classmethod
    def from_toml(cls, path: str | Path) -> "FaultPlan":
        """Read `seed = 7` and any number of `[[fault]]` tables with the fields of `Fault`.

        Raises:
            ConfigError: the file cannot be read, or says something that a plan does not have.
        """
        import tomllib  # noqa: PLC0415 - only for a run with faults

        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:  # not TOML, or numbers and tables without end
            raise ConfigError(
                f"the fault plan {path} cannot be read ({error}), and nothing was run; correct it, or give another file"
            ) from error
        tables, seed = document.pop("fault", []), document.pop("seed", 0)
        if document or not isinstance(tables, list):
            raise ConfigError(
                f"the fault plan {path} has {shown(next(iter(document), tables))}, and nothing was run; "
                "it may have a `seed` and `[[fault]]` tables"
            )
        return cls([_fault_from_table(table, path) for table in tables], seed=seed)

    def check_targets(self, names: Iterable[str]) -> None:
        """Refuse a plan that would silently do nothing.

        Raises:
            ConfigError: a target matches none of the given guard names.
        """
        known = sorted(set(names))
        for fault in self.faults:
            if not any(fnmatchcase(name, fault.target) or _is_link_of(name, fault.target) for name in known):
                raise ConfigError(
                    f"the fault {shown(f'{fault.target}={fault.action}')[1:-1]} matches no guard, and nothing was run; "
                    f"the guards are {', '.join(known) or 'none'}"
                )

    def draw(self, link: str, now: float) -> list[Fault]:
        """Count one call of `link` at `now` (seconds on any one clock), and say which faults strike it."""
        if self._began_at is None:
            self._began_at = now
        count = self._calls[link] = self._calls.get(link, 0) + 1
        since = now - self._began_at
        return [fault for index, fault in enumerate(self.faults) if self._strikes(index, fault, link, count, since)]

    def _strikes(self, index: int, fault: Fault, link: str, count: int, since: float) -> bool:
        if not fnmatchcase(link, fault.target):
            return False
        if fault.rate < 1:  # drawn on every call, so that the n-th call's fate never depends on the other conditions
            dice = self._dice.get((index, link))
            if dice is None:
                dice = self._dice[index, link] = Random(f"{self.seed}/{index}/{link}")  # noqa: S311 - not a secret
            if dice.random() >= fault.rate:
                return False
        return (fault.nth is None or fault.nth == count) and fault.from_seconds <= since < fault.until_seconds

    async def around(
        self,
        link: str,
        call: Callable[[], Awaitable[Any]],
        *,
        now: float,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        tell: Callable[[str], None] | None = None,
    ) -> Any:
        """Make one call of `link` under this plan. `tell` hears the name of every action that strikes, before it does.

        Raises:
            InjectedFault: the plan asked for an error.
        """
        struck = self.draw(link, now)
        for fault in struck:
            if tell is not None:
                tell(str(fault.action))
            await self._before(fault, link, sleep)
        result = await call()
        for fault in struck:
            if fault.action is FaultAction.CORRUPT:
                result = self._corrupt(result)
            elif fault.action is FaultAction.KILL:
                await sleep(KILL_GRACE_SECONDS)
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    async def _before(self, fault: Fault, link: str, sleep: Callable[[float], Awaitable[Any]]) -> None:
        if fault.action is FaultAction.ERROR:
            raise InjectedFault(f"the fault plan failed call {self._calls[link]} of {link!r}; it was not made")
        if fault.action is FaultAction.LATENCY:
            await sleep(fault.seconds)
        elif fault.action is FaultAction.HANG:
            await asyncio.get_running_loop().create_future()


def _is_link_of(guard: str, target: str) -> bool:
    """Whether the target could be one of this guard's fallbacks, whose names the caller need not know."""
    head, slash, _ = target.partition("/")
    return bool(slash) and fnmatchcase(guard, head)


def _parse_fault(text: str) -> Fault:
    target, equals, what = text.partition("=")
    what, at, nth = what.partition("@")
    action, colon, value = what.partition(":")
    number = _number(value) if colon else None
    if not equals or (at and not (nth.isascii() and nth.isdigit() and len(nth) < 10)) or (colon and number is None):
        raise ConfigError(
            f"{shown(text)} is not a fault, and nothing was run; write TARGET=ACTION[:VALUE][@N], "
            "as in trend=error:0.3 or volume=latency:2.5@2"
        )
    order = int(nth) if at else None
    if action == FaultAction.LATENCY:
        if number is None:
            raise ConfigError(f"{shown(text)} has no seconds, and nothing was run; write as in volume=latency:2.5")
        return Fault(target, FaultAction.LATENCY, seconds=number, nth=order)
    return Fault(target, action, rate=1.0 if number is None else number, nth=order)  # type: ignore[arg-type]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _fault_from_table(table: Any, path: str | Path) -> Fault:
    known = {field.name for field in fields(Fault)}
    if not isinstance(table, dict) or not {"target", "action"} <= set(table) <= known:
        raise ConfigError(
            f"the fault plan {path} has the fault {shown(table)}, and nothing was run; "
            f"target and action are needed, and {', '.join(sorted(known - {'target', 'action'}))} are possible"
        )
    return Fault(**table)


def is_number(value: Any) -> bool:
    """Whether time can be counted by it: no truth value, not NaN, not infinite, not larger than any float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(value: Any) -> str:
    """A value within the line of an error: escaped, and no longer than 80 characters."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a number of thousands of digits, tables within tables, a broken __repr__
        return f"something that cannot be shown ({type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:77]}..."
