"""The research swarm: who is asked, what an analyst is, and how to plug in one's own.

An analyst is anything with a `name` that turns a `MarketView` into a `Finding`, at once or awaitably. Those here are
rules with literature behind them: pure, total, and quick enough to be run inline. Each has a file of its own;
`synthesis` weighs what they found.
"""

import importlib
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agents.domain import Finding, MarketView
from agents.errors import ConfigError
from agents.research.breakout import Breakout
from agents.research.cross_asset import CrossAsset
from agents.research.mean_reversion import MeanReversion
from agents.research.seasonality import Seasonality
from agents.research.trend import Trend
from agents.research.volatility import Volatility
from agents.research.volume import Volume

__all__ = [
    "DEFAULT_MEMBERS",
    "Analyst",
    "Breakout",
    "CrossAsset",
    "MeanReversion",
    "Member",
    "Seasonality",
    "Trend",
    "Volatility",
    "Volume",
    "load_analyst",
]


class Analyst(Protocol):
    """A member of the swarm. `name` matches `[a-z][a-z0-9_]{0,31}`, is unique, and is the name on its findings."""

    @property
    def name(self) -> str: ...

    def __call__(self, view: MarketView, /) -> Finding | Awaitable[Finding]: ...


@dataclass(frozen=True, slots=True)
class Member:
    """An analyst, and how it is asked.

    `required`: a decision may not do without it. `quick`: it answers at once and never waits, and so is run on the
    event loop; other synchronous analysts get a thread. `needs_market`: asked only where there are other symbols.
    """

    analyst: Analyst
    required: bool
    quick: bool = False
    needs_market: bool = False

    @property
    def name(self) -> str:
        return self.analyst.name


DEFAULT_MEMBERS: tuple[Member, ...] = (
    Member(Trend(), required=True, quick=True),
    Member(Breakout(), required=True, quick=True),
    Member(MeanReversion(), required=True, quick=True),
    Member(Volatility(), required=True, quick=True),
    Member(Volume(), required=False, quick=True),
    Member(Seasonality(), required=False, quick=True),
    Member(CrossAsset(), required=False, quick=True, needs_market=True),
)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class _FunctionAnalyst:
    """A plain function, or an async one, under its own name."""

    name: str
    function: Callable[[MarketView], Finding | Awaitable[Finding]]

    def __call__(self, view: MarketView, /) -> Finding | Awaitable[Finding]:
        return self.function(view)


def load_analyst(path: str) -> Analyst:
    """Import one's own analyst from `package.module:attribute`.

    A class is instantiated without arguments; a function becomes an analyst named as the function is; any other
    object is taken as it is. The code is run with all rights of this process: load only what you trust.

    Raises:
        ConfigError: it cannot be imported or made, cannot be called, or has no name that fits.
    """
    found = _imported(path)
    if inspect.isclass(found):
        found = _made(path, found)
    if not callable(found):
        raise _refusal(path, f"is of type {type(found).__name__}, which cannot be called with a MarketView")
    if inspect.isroutine(found):
        found = _FunctionAnalyst(found.__name__, found)
    name = getattr(found, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _refusal(path, f"has the name {name!r:.60}, which does not match [a-z][a-z0-9_]{{0,31}}")
    return found  # type: ignore[no-any-return]  # checked by hand just above


def _imported(path: str) -> Any:
    module_name, separator, attribute = path.partition(":")
    if not separator or not module_name or not attribute or module_name.startswith("."):
        raise _refusal(path, "is not of the form package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise _refusal(path, f"cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(module, attribute):
        raise _refusal(path, f"does not exist: module {module_name} has no {attribute!r:.60}")
    return getattr(module, attribute)


def _made(path: str, analyst_class: type) -> Any:
    try:
        return analyst_class()
    except (Exception, SystemExit) as error:
        raise _refusal(path, f"cannot be made without arguments ({type(error).__name__}: {error})") from error


def _refusal(path: str, fact: str) -> ConfigError:
    remedy = "name an importable function, class or object that takes a MarketView and gives a Finding"
    return ConfigError(f"analyst {path!r:.120} {fact}; the swarm was not started; {remedy}")
