"""The scenarios: what an unlucky desk goes through. The names are those that the command line takes."""

import asyncio

from agents.domain import Finding, MarketView
from agents.research import DEFAULT_MEMBERS
from graph.resilience import Fault, FaultAction
from graph.state import BROKER, NODES
from tests.simulation.story import Scenario

MEMBERS = tuple(member.name for member in DEFAULT_MEMBERS)
REQUIRED = tuple(member.name for member in DEFAULT_MEMBERS if member.required)
MODELS = ("model_a", "model_b", "model_c", "model_d")


class _Model:
    """Takes its time, as a language model does."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, view: MarketView) -> Finding:
        await asyncio.sleep(2.0)
        return Finding(self.name, 0.6, 0.7, f"the model likes {view.symbol}")


model_a, model_b, model_c, model_d = (_Model(name) for name in MODELS)


def _policies(names: tuple[str, ...], **policy: float) -> dict[str, dict[str, float]]:
    return {name: dict(policy) for name in names}


def _each(names: tuple[str, ...], action: FaultAction, **when: float) -> tuple[Fault, ...]:
    return tuple(Fault(name, action, **when) for name in names)


_MODEL_DESK = {
    "required": tuple(f"tests.simulation.scenarios:{name}" for name in MODELS),
    "optional": ("volume", "seasonality"),
    "fallbacks": dict(zip(MODELS, ((name,) for name in REQUIRED), strict=True)),
    "guards": _policies(MODELS, attempt_timeout=10.0, max_attempts=3),
}


# Three attempts leave 2.7 % of calls without an answer where 3 of 10 fail; a node is local and safe to ask again, so it
# is asked more often and sooner, and by a breaker that its own attempts do not trip.
_STEADY = _policies(MEMBERS, max_attempts=5) | _policies(
    NODES, max_attempts=8, base_seconds=0.1, max_seconds=1.0, failure_threshold=10
)

_THREE_OF_TEN = _each((*MEMBERS, *NODES, *(f"{name}/*" for name in NODES)), FaultAction.ERROR, rate=0.3)

SCENARIOS = {
    # Every analyst, every node, and every fallback of theirs fails 3 of 10 calls, on a desk that is set up for it.
    "errors": Scenario(_THREE_OF_TEN, {"guards": _STEADY}),
    # The same with the default policies: three attempts, and nobody behind most of the nodes.
    "defaults": Scenario(_THREE_OF_TEN),
    # With no settings at all: one required analyst never answers, and a tenth of all other calls does not.
    "hung": Scenario(
        _each(REQUIRED[:1], FaultAction.HANG) + _each((*MEMBERS[1:], *NODES, BROKER), FaultAction.HANG, rate=0.1)
    ),
    # The same for the node that has somebody to answer for it: nobody plans, and nothing is traded.
    "no_strategist": Scenario(_each(("strategy",), FaultAction.HANG)),
    # A tenth of the calls never returns, another tenth is late; models with a rule behind each.
    "hangs": Scenario(
        _each((*MODELS, *NODES), FaultAction.HANG, rate=0.1)
        + _each((*MODELS, *NODES), FaultAction.LATENCY, rate=0.1, seconds=4.0)
        + _each(MODELS, FaultAction.CORRUPT, rate=0.1),
        _MODEL_DESK
        | {
            "guards": _policies(MODELS, attempt_timeout=10.0, max_attempts=3)
            | _policies(NODES, attempt_timeout=5.0, max_attempts=8, failure_threshold=10)
        },
    ),
    # All models hang for ever: rules answer.
    "models_down": Scenario(_each(MODELS, FaultAction.HANG), _MODEL_DESK),
    # One decision every 15 s for five minutes, and in the second minute all models are down: breakers open and heal.
    "outage": Scenario(
        _each(MODELS, FaultAction.ERROR, from_seconds=60.0, until_seconds=120.0)
        + _each(("volume",), FaultAction.ERROR, rate=0.2),
        _MODEL_DESK,
        runs=20,
        pause_seconds=13.0,
    ),
    # Half of the analysts are missing most of the time, but only one of them is required.
    "starved": Scenario(
        _each(MEMBERS[1:], FaultAction.ERROR, rate=0.6),
        {"required": REQUIRED[:1], "optional": MEMBERS[1:], "guards": _policies(MEMBERS[1:], max_attempts=1)},
    ),
    # A third of the required analysts is dead: no decision can be made until they are back.
    "blackout": Scenario(_each(REQUIRED[:2], FaultAction.ERROR)),
    # The broker loses answers and requests, or answers nonsense; an order must not be sent twice, nor be forgotten.
    "broker": Scenario(
        (
            Fault("broker", FaultAction.ERROR, rate=0.4),
            Fault("broker", FaultAction.CORRUPT, rate=0.4),
            Fault("broker", FaultAction.HANG, rate=0.1),
            Fault("execution", FaultAction.CORRUPT, rate=0.2),
        ),
        {"gate": {"mean_r_min": -100.0}, "guards": {"broker": {"attempt_timeout": 5.0}}},
    ),
}
