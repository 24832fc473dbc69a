"""A session's report, for people as Markdown and as one HTML file, for machines as JSON, and its pictures as PNG."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agents.domain import Fill, Order, TradingState
from graph.report import as_text, markdown_table, write_file
from graph.result import one_line, plain, state_line
from graph.session.pictures import pictures
from graph.session.status import SessionResult

__all__ = ["write_session_report"]

_ROWS_MAX = 500
"""Orders and fills that are listed, the newest; `report.json` has all of them."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { text-align: left; padding: .2rem .8rem .2rem 0; }
th { border-bottom: 1px solid #999; } td { border-bottom: 1px solid #eee; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } .bad { color: #b3261e; }
"""
_Section = tuple[str, Sequence[str], Sequence[Sequence[object]]]


def write_session_report(folder: Path, result: SessionResult) -> None:
    """Write `report.md`, `report.html`, `report.json` and the pictures into a folder, each file in one piece."""
    drawn = pictures(result)
    for name, png in drawn.items():
        write_file(folder / f"{name}.png", png)
    write_file(folder / "report.md", _markdown(result, drawn).encode())
    write_file(folder / "report.html", _html(result, drawn).encode())
    data = result.as_json() | {"marks": plain(result.marks), "all_fills": plain(result.fills)}
    write_file(folder / "report.json", (json.dumps(data, indent=2, default=str, allow_nan=False) + "\n").encode())


def _lines(result: SessionResult) -> Iterable[str]:
    run, portfolio = result.run, result.portfolio
    began = datetime.fromtimestamp(run.as_of_ns / 1e9, tz=UTC).isoformat(timespec="seconds")
    yield f"{run.symbol}, from {began} on, for {result.elapsed_s:,.0f} s; {run.status}."
    if run.error:
        yield f"It failed: {one_line(run.error)}"
    if result.resume_command:
        yield f"Go on by: {result.resume_command}"
    if result.trading.state is not TradingState.ACTIVE:
        yield f"Trading is {state_line(result.trading)}"
    earned = result.equity - result.opening_cash
    yield f"P&L {earned:+,.2f}: realised {portfolio.realised:+,.2f}, fees {portfolio.fees:,.2f}."
    yield f"Equity {result.equity:,.2f}, largest drawdown {result.drawdown:.2%}."
    for held in portfolio.positions:
        yield f"Open: {held.quantity:f} {held.symbol} at {held.average_price:,.2f}."


def _sections(result: SessionResult) -> Iterable[_Section]:
    orders, fills = result.orders[-_ROWS_MAX:], result.fills[-_ROWS_MAX:]
    yield (
        _titled("Orders", orders, result.orders),
        ("id", "leg", "side", "quantity", "price", "status", "reason"),
        [_order(order) for order in orders],
    )
    yield (
        _titled("Fills", fills, result.fills),
        ("time", "side", "quantity", "price", "fee", "order"),
        [_fill(fill) for fill in fills],
    )
    yield (
        "In the last process",
        ("what", "times"),
        [(name, f"{count:,}") for name, count in result.counts.items() if count],
    )
    reaction = [(name, f"{value:,.1f}") for name, value in result.reaction_us.items()]
    yield "From a price to what it sets off", ("percentile", "microseconds"), reaction


def _titled(title: str, shown: Sequence[object], there: Sequence[object]) -> str:
    return title if len(shown) == len(there) else f"{title} (the newest {len(shown)} of {len(there):,})"


def _order(order: Order) -> tuple[object, ...]:
    intent = order.intent
    price = "" if order.price is None else f"{order.price:f}"
    return order.client_order_id, intent.leg, intent.side, f"{intent.quantity:f}", price, order.status, order.reason


def _fill(fill: Fill) -> tuple[object, ...]:
    at = datetime.fromtimestamp(fill.time_ns / 1e9, tz=UTC).isoformat(timespec="milliseconds")
    return at, fill.side, f"{fill.quantity:f}", f"{fill.price:f}", f"{fill.fee:f}", fill.client_order_id


def _markdown(result: SessionResult, drawn: Mapping[str, bytes]) -> str:
    parts = [f"# {result.run.run_id}", *(as_text(line) for line in _lines(result))]
    parts += [f"![{name}]({name}.png)" for name in drawn]
    for title, columns, rows in _sections(result):
        parts += [f"## {title}", markdown_table(columns, rows) if rows else "None."]
    return "\n\n".join(parts) + "\n"


def _html(result: SessionResult, drawn: Mapping[str, bytes]) -> str:
    lines = "".join(f"<p>{html.escape(one_line(line))}</p>\n" for line in _lines(result))
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">\n'
        for name, png in drawn.items()
    )
    tables = "".join(_html_table(*section) for section in _sections(result))
    title = html.escape(one_line(result.run.run_id))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head>\n<body><h1>{title}</h1>\n{lines}{images}{tables}</body></html>\n"
    )


def _html_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(one_line(cell))}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    shown = f"<table><tr>{head}</tr>\n{body}</table>\n" if rows else "<p>None.</p>\n"
    return f"<h2>{html.escape(title)}</h2>\n{shown}"
