"""The swarm's members: found by the settings' names for them, and asked in the way that suits each."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from agents.domain import Finding, MarketView
from agents.errors import ConfigError, UnusableAnswer
from agents.research import DEFAULT_MEMBERS, Analyst, Member, load_analyst
from graph.config import Settings
from graph.resilience.invoke import is_async
from graph.state import BROKER, NODES

__all__ = ["ask", "is_finding_of", "stand_in", "swarm"]

_TAKEN = frozenset({*NODES, BROKER, "analyst"})
_BUILT_IN: Mapping[str, Member] = {member.name: member for member in DEFAULT_MEMBERS}


def swarm(settings: Settings) -> tuple[Member, ...]:
    """The members that the settings name: built-in ones by name, others by `package.module:attribute`.

    Raises:
        ConfigError: a member is unknown, cannot be loaded, is named twice, or has the name of a node.
    """
    members: dict[str, Member] = {}
    for path, required in [(path, True) for path in settings.required] + [(path, False) for path in settings.optional]:
        member = _member(path, required=required)
        if member.name in members or member.name in _TAKEN:
            raise ConfigError(
                f"the swarm has two members or nodes named {member.name!r}; nothing was run; give each its own name"
            )
        members[member.name] = member
    if not members:
        raise ConfigError("the swarm has no members; nothing was run; name some in `required` or `optional`")
    return tuple(members.values())


def _member(path: str, *, required: bool) -> Member:
    if path in _BUILT_IN:
        return replace(_BUILT_IN[path], required=required)
    if ":" not in path:
        raise ConfigError(
            f"{path!r:.80} is no built-in analyst; nothing was run; there are {', '.join(_BUILT_IN)},"
            " and your own as package.module:attribute"
        )
    return Member(load_analyst(path), required=required)


def ask(member: Member) -> Callable[[MarketView], Any]:
    """A member as its guard calls it: its finding is looked at, and anything else is an UnusableAnswer.

    A quick rule is run on the event loop, where a hop to a thread would cost more than the rule; what else is
    synchronous gets a thread of the guard's.
    """
    call = _checked(member.name, member.analyst)
    if not member.quick:
        return call

    async def inline(view: MarketView) -> Any:
        return call(view)

    return inline


def stand_in(name: str, path: str) -> Callable[[MarketView], Any]:
    """The analyst at `path` answering for the member `name`: its findings count as that member's.

    Raises:
        ConfigError: there is no such analyst.
    """
    analyst = _member(path, required=False).analyst
    return _checked(analyst.name, analyst, answers_for=name)


def is_finding_of(name: str) -> Callable[[Any], bool]:
    """Whether an answer is the member's finding: the last look, behind everything that can go wrong in a guard."""
    return lambda answer: type(answer) is Finding and answer.analyst == name


def _checked(name: str, analyst: Analyst, answers_for: str = "") -> Callable[[MarketView], Any]:
    def finding(answer: Any) -> Finding:
        _check_answer(name, answer)
        named: Finding = replace(answer, analyst=answers_for or name)
        return named

    async def later(answer: Awaitable[Any]) -> Finding:
        task = asyncio.current_task()
        asked = task.cancelling() if task else 0
        try:
            return finding(await answer)
        except asyncio.CancelledError as error:
            if task and task.cancelling() > asked:  # somebody else cancels us, and we obey
                raise
            raise _escaped(name, error) from error
        except (SystemExit, KeyboardInterrupt) as error:
            raise _escaped(name, error) from error

    def at_once(view: MarketView) -> Any:
        try:
            answer = analyst(view)
            return later(answer) if inspect.isawaitable(answer) else finding(answer)
        except Exception:
            raise
        except BaseException as error:  # an analyst that ends its program, or cancels, ends neither us nor the others
            raise _escaped(name, error) from error

    async def awaited(view: MarketView) -> Any:
        return await at_once(view)

    call: Any = awaited if is_async(analyst) else at_once
    call.__name__ = name
    return cast("Callable[[MarketView], Any]", call)


def _escaped(name: str, error: BaseException) -> UnusableAnswer:
    return UnusableAnswer(
        f"analyst {name} raised {type(error).__name__} ({error}); it counts as no answer; analysts fail with exceptions"
    )


def _check_answer(name: str, answer: Any) -> None:
    if type(answer) is not Finding:  # a subclass would not come back from a checkpoint as what it was
        raise UnusableAnswer(
            f"analyst {name} returned {type(answer).__name__} ({answer!r:.60}) and not a Finding; it counts as no"
            " answer; return agents.domain.Finding"
        )
    if answer.analyst != name:
        raise UnusableAnswer(
            f"analyst {name} returned a finding named {answer.analyst!r:.60}; it counts as no answer; a finding carries"
            f" the name of its analyst, which is the function's or the object's name: Finding({name!r}, ...)"
        )
