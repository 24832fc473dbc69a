"""From findings to a plan: direction, size, entry, stop, take-profit and horizon, or a HOLD that says why."""

import math
from dataclasses import dataclass, replace
from decimal import Decimal

from agents import conditions
from agents.domain import MarketView, Portfolio, Revision, Synthesis, TradePlan, TradingAction, Verdict, towards_zero
from agents.errors import ConfigError

__all__ = ["StrategySettings", "hold_plan", "make_plan"]

_LEVEL_SHARE = {0: 1.0, 1: 0.5, 2: 0.25}  # a degraded swarm has seen less, and so may risk less


@dataclass(frozen=True, slots=True)
class StrategySettings:
    """How plans are sized and bounded.

    `target_volatility` annual, of the whole account; `kelly_share` of the Kelly fraction that is used; `edge_max` hit
    rate above chance at full stance and confidence; `weight_max` share of equity in one symbol; `stance_min` below
    which there is no view; `stop_atr` distance of the stop in average true ranges; `reward_risk` take-profit distance
    / stop distance; `trade_weight_min` the smallest change of weight worth a trade; `quantity_step` units.
    """

    target_volatility: float = 0.20
    kelly_share: float = 0.5
    edge_max: float = 0.5
    weight_max: float = 0.25
    stance_min: float = 0.08
    stop_atr: float = 2.0
    reward_risk: float = 2.0
    horizon_bars: int = 20
    trade_weight_min: float = 0.005
    quantity_step: Decimal = Decimal("0.0001")
    allow_short: bool = False

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            number = isinstance(value, int | float | Decimal) and math.isfinite(value)
            if name != "allow_short" and not (number and value > 0):
                raise ConfigError(f"strategy.{name} is {value}; no plan can be sized by it; set a number above 0")


def hold_plan(view: MarketView, *reasons: str, level: int = 0, revision: int = 0) -> TradePlan:
    """A plan that trades nothing, with its reasons."""
    return TradePlan(
        symbol=view.symbol,
        action=TradingAction.HOLD,
        target_weight=0.0,
        quantity=Decimal(0),
        entry=view.last_price,
        reasons=reasons,
        level=level,
        revision=revision,
        as_of_ns=view.as_of_ns,
    )


def make_plan(
    view: MarketView,
    portfolio: Portfolio,
    synthesis: Synthesis,
    settings: StrategySettings,
    *,
    verdict: Verdict | None = None,
    revision: int = 0,
) -> TradePlan:
    """Turn the swarm's synthesis into a plan. `verdict`: the gate's wishes about the plan before this one."""
    settings = _revised(settings, verdict.revisions if verdict else ())
    price = view.last_price
    equity = portfolio.equity({view.symbol: price})
    held = portfolio.position(view.symbol).quantity
    if equity <= 0:
        return hold_plan(view, f"equity is {equity:.2f}: there is nothing to risk", revision=revision)
    weight, reasons = _target_weight(view, synthesis, settings)
    if weight is None:
        return hold_plan(view, *reasons, level=synthesis.level, revision=revision)
    target = towards_zero(Decimal(repr(weight)) * equity / price, settings.quantity_step)
    change = target - held
    if abs(change) * price < Decimal(repr(settings.trade_weight_min)) * equity:
        why = f"holding {held.normalize():f} is within {settings.trade_weight_min:.1%} of the target {target:f}"
        return hold_plan(view, *reasons, why, level=synthesis.level, revision=revision)
    stop, take_profit = _bounds(view, settings, 1 if target > 0 else -1) if target else (None, None)
    return TradePlan(
        symbol=view.symbol,
        action=TradingAction.BUY if change > 0 else TradingAction.SELL,
        target_weight=weight if target else 0.0,
        quantity=abs(change),
        entry=price,
        stop=stop,
        take_profit=take_profit,
        horizon_bars=settings.horizon_bars,
        reasons=reasons,
        level=synthesis.level,
        revision=revision,
        as_of_ns=view.as_of_ns,
    )


def _revised(settings: StrategySettings, revisions: tuple[Revision, ...]) -> StrategySettings:
    for wish in revisions:
        if wish.field == "target_weight":
            settings = replace(settings, weight_max=min(settings.weight_max, wish.limit))
        elif wish.field == "reward_risk":
            settings = replace(settings, reward_risk=max(settings.reward_risk, wish.limit))
    return settings


def _target_weight(
    view: MarketView, synthesis: Synthesis, settings: StrategySettings
) -> tuple[float | None, tuple[str, ...]]:
    """The signed share of equity to hold, or None for "leave it as it is", and why.

    Volatility targeting (Moreira and Muir 2017) and a fraction of Kelly (1956; Thorp 2006), whichever is smaller. For
    a bet that pays b with hit rate 1/(1+b) + edge the Kelly fraction is edge (1+b)/b; the edge is what the swarm
    claims, stance x confidence, scaled by `edge_max`.
    """
    stance = synthesis.stance
    if abs(stance) < settings.stance_min:
        return None, (f"the swarm's stance of {stance:+.2f} is no view (below {settings.stance_min:.2f})",)
    if stance < 0 and not settings.allow_short:
        return 0.0, (f"the swarm is bearish ({stance:+.2f}) and short selling is off: the target is no position",)
    volatility = conditions.annual_volatility(view)
    by_volatility = settings.target_volatility / volatility if volatility > 0 else settings.weight_max
    edge = settings.edge_max * abs(stance) * synthesis.confidence
    by_kelly = settings.kelly_share * edge * (1 + settings.reward_risk) / settings.reward_risk
    size = min(by_volatility, by_kelly, settings.weight_max) * _LEVEL_SHARE[synthesis.level]
    share = _LEVEL_SHARE[synthesis.level]
    bounds = f"volatility {by_volatility:.4f}, Kelly {by_kelly:.4f}, cap {settings.weight_max:.4f}"
    reasons = (
        f"stance {stance:+.2f} at confidence {synthesis.confidence:.2f}, agreement {synthesis.agreement:.2f}",
        f"weight {size:.4f} = min({bounds}) x {share:.2f} for degradation level {synthesis.level}",
    )
    return (size if stance > 0 else -size), reasons


def _bounds(view: MarketView, settings: StrategySettings, direction: int) -> tuple[Decimal | None, Decimal | None]:
    """Stop and take-profit of a position in `direction` around the last price.

    None where volatility would put them at or below zero, or is too small to set them apart from the price.
    """
    price = view.last_price
    distance = Decimal(repr(settings.stop_atr)) * Decimal(repr(conditions.true_range(view)))
    reward = distance * Decimal(repr(settings.reward_risk))
    stop = _to_step(price - direction * distance, view.price_step)
    take_profit = _to_step(price + direction * reward, view.price_step)
    return (
        stop if stop > 0 and (price - stop) * direction > 0 else None,
        take_profit if (take_profit - price) * direction > 0 and take_profit > 0 else None,
    )


def _to_step(price: Decimal, step: Decimal) -> Decimal:
    return (price / step).to_integral_value() * step
