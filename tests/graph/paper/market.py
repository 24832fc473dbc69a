"""Orders and prices for the tests of the paper broker."""

from decimal import Decimal

from agents.domain import Bar, OrderIntent, Quote, Side
from graph.paper import PaperTerms

S_NS = 1_000_000_000
MINUTE_NS = 60 * S_NS
SEEN_NS = 1_000 * MINUTE_NS
"""When the decisions of the tests were made."""
BARE = PaperTerms(
    slippage_bps=Decimal(0),
    spread_bps=Decimal(0),
    taker_fee_bps=Decimal(0),
    maker_fee_bps=Decimal(0),
    participation=Decimal(1),
    latency_ms_min=0,
    latency_ms_max=0,
)
"""Terms that change no price, so that a test sees what a rule does."""


def intent(run_id="run-1", side=Side.BUY, quantity="2", *, limit=None, stop=None, **more) -> OrderIntent:
    return OrderIntent.derive(
        **{"run_id": run_id, "account": "paper", "symbol": "SIM", "side": side, "quantity": Decimal(quantity)}
        | {"reference_price": Decimal(100), "reference_ns": SEEN_NS}
        | {"limit_price": None if limit is None else Decimal(limit)}
        | {"stop_price": None if stop is None else Decimal(stop)}
        | more
    )


def quote(bid, ask=None, at_s=1, *, sizes=None, symbol="SIM") -> Quote:
    """A quote, seconds after the decisions."""
    size = (None, None) if sizes is None else tuple(map(Decimal, sizes))
    return Quote(symbol, SEEN_NS + round(at_s * S_NS), Decimal(bid), Decimal(bid if ask is None else ask), *size)


def bar(prices, number=1, volume=None, symbol="SIM") -> Bar:
    """A bar of a minute, that many minutes after the decisions; `prices`: open, high, low, close."""
    size = None if volume is None else Decimal(volume)
    return Bar(symbol, SEEN_NS + number * MINUTE_NS, *map(Decimal, prices.split()), size)
