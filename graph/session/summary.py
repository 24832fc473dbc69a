"""What is printed at a session's end: what it earned, what stays open, what happened, and how to go on."""

from collections import Counter

from agents.domain import TradingState
from checkpoints.runs import RunStatus
from graph.result import one_line, state_line
from graph.session.status import SessionResult
from graph.summary import console_of, say, show, table_of

__all__ = ["print_session"]

_FAST = 100.0
"""Beyond this many times as fast, thinking that takes a second lasts longer than a bar."""
_TOLD = (
    ("events", "market events"),
    ("slow_decisions", "decisions"),
    ("plans", "plans approved"),
    ("held", "decisions to hold"),
    ("outdated", "plans left: the position had changed"),
    ("slow_failed", "decisions that failed"),
    ("orders_sent", "orders sent"),
    ("orders_denied", "orders denied before they were sent"),
    ("orders_nothing", "orders that came to nothing"),
    ("orders_dropped", "orders dropped: the queue was full"),
    ("orders_failed", "orders without an answer"),
    ("exits", "stops and targets"),
    ("stream_connections", "connections"),
    ("stream_missing", "messages missing"),
    ("stream_refused", "messages refused"),
    ("errors", "errors"),
)


def print_session(result: SessionResult) -> None:
    """Print a session's summary."""
    console = console_of()
    run, portfolio = result.run, result.portfolio
    earned = result.equity - result.opening_cash
    say(console, f"\nSession   {run.run_id} ({run.status}), {_time(result.elapsed_s)}")
    if run.error:
        say(console, f"Failed    {one_line(run.error)}")
    if run.status is not RunStatus.FINISHED:
        say(console, f"Resume    {result.resume_command}")
    say(console, f"P&L       {earned:+,.2f} (realised {portfolio.realised:+,.2f}, fees {portfolio.fees:,.2f})")
    say(console, f"Equity    {result.equity:,.2f}, largest drawdown {result.drawdown:.2%}")
    for held in portfolio.positions:
        say(
            console,
            f"Open      {held.quantity:f} {held.symbol} at {held.average_price:,.2f}; {_unwatched(result)}",
        )
    if result.trading.state is not TradingState.ACTIVE:
        say(console, f"Trading   {state_line(result.trading)}")
    if result.counts.get("slow_failed") and _speed(result) > _FAST:
        say(console, f"Late      at --speed {_speed(result):g} a decision has little time: {_FAST:g} at most")
    if result.reaction_us:
        at = {name: f"{value:,.0f} us" for name, value in result.reaction_us.items()}
        say(console, f"Reaction  to a price: {at['p50']} P50, {at['p99']} P99, {at['max']} at most")
    _print_orders(console, result)
    _print_counts(console, result)
    report = result.folder / "report.html"
    say(console, f"Report    {report if report.exists() else 'not written; all that it tells is in the database'}")


def _unwatched(result: SessionResult) -> str:
    """What is true of a position that outlives its session."""
    if result.resume_command:
        return "nobody watches its stop until the session is gone on with"
    return f'nobody watches its stop now; close it by: python -m graph.run halt --flatten --reason "WHY"{result.home}'


def _print_orders(console: object, result: SessionResult) -> None:
    if not result.orders:
        say(console, "Orders    none")
        return
    found = Counter((order.intent.leg.partition("-")[0], str(order.status)) for order in result.orders)
    table = table_of(f"Orders ({len(result.orders)}, {len(result.fills)} fills)", "leg", "status", "orders")
    for (leg, status), count in sorted(found.items()):
        table.add_row(leg, status, str(count))
    show(console, table)


def _print_counts(console: object, result: SessionResult) -> None:
    rows = [(words, result.counts[name]) for name, words in _TOLD if result.counts.get(name)]
    if not rows:
        return
    table = table_of("In this process", "what", "times")
    for words, count in rows:
        table.add_row(words, f"{count:,}")
    show(console, table)


def _speed(result: SessionResult) -> float:
    terms = result.run.parameters.get("session")
    return float(terms["speed"]) if terms else 1.0


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
