"""The run's report, `report.md` for people and `report.json` for machines, beside its lock in the run's folder."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agents.domain import Check, Finding, TradingState
from checkpoints.events import Entry
from graph.result import RunResult, one_line, plain, policy_line, state_line

__all__ = ["as_text", "markdown_table", "write_file", "write_report"]


def write_report(folder: Path, result: RunResult) -> None:
    """Write both files, each in one piece: a reader sees the old one or the new one, never a half."""
    write_file(folder / "report.md", _markdown(result).encode())
    data = json.dumps(_data(result), indent=2, default=str, allow_nan=False) + "\n"
    write_file(folder / "report.json", data.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one piece."""
    draft = path.with_suffix(path.suffix + ".new")
    draft.write_bytes(data)
    draft.replace(path)


def _data(result: RunResult) -> dict[str, object]:
    state = result.state
    return result.as_json() | {
        "findings": plain(state.get("findings", [])),
        "synthesis": plain(state.get("synthesis")),
        "plan": plain(state.get("plan")),
        "portfolio": plain(result.portfolio),
        "timeline": [plain(entry) for entry in result.timeline],
    }


def _markdown(result: RunResult) -> str:
    parts = [
        f"# {result.run.run_id}",
        f"Status **{result.run.status}**"
        + (f": {as_text(result.run.error)}" if result.run.error else f", decision **{result.action}**")
        + (f". Resume with `{result.resume_command}`" if result.resume_command else "")
        + ".",
        _head(result),
        _trading(result),
        *[f"- {as_text(reason)}" for reason in result.reasons],
        "## Findings",
        _findings(result),
        "## Plan",
        _plan(result),
        "## Quality gate",
        f"Verdict: {result.verdict.outcome}" if result.verdict else "The gate was not reached.",
        _checks(result.verdict.checks) if result.verdict else "",
        "## Policy",
        as_text(policy_line(result.policy)) + "." if result.policy else "The policy was not asked.",
        "## Risk",
        _checks(result.orders[-1].checks) if result.orders else "No order was asked for.",
        "## Orders",
        _orders(result),
        "## Checkpoints",
        markdown_table(
            ("id", "saved at", "stands before"),
            [(row.checkpoint_id, row.saved_at, row.before) for row in result.checkpoints],
        ),
        *(["## Guards", _guards(result)] if result.troubles else []),
        "## Timeline",
        _timeline(result.timeline),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(result: RunResult) -> str:
    view = result.state.get("view")
    as_of = datetime.fromtimestamp(result.run.as_of_ns / 1e9, tz=UTC).isoformat(timespec="seconds")
    bars = (
        f"{len(view)} bars of {as_text(view.source)}, trading hours {as_text(view.calendar)}" if view else "no bars yet"
    )
    return f"{as_text(result.run.symbol)} as of {as_of}, decided on {bars}."


def _trading(result: RunResult) -> str:
    if result.trading is None or result.trading.state is TradingState.ACTIVE:
        return ""
    return f"Trading is **{as_text(state_line(result.trading))}**."


def _findings(result: RunResult) -> str:
    synthesis = result.state.get("synthesis")
    rows: list[Sequence[object]] = []
    for each in result.state.get("findings", []):
        if isinstance(each, Finding):
            evidence = ", ".join(f"{name} {value:.4g}" for name, value in each.evidence.items())
            rows.append((each.analyst, f"{each.stance:+.3f}", f"{each.confidence:.3f}", each.rationale, evidence))
        else:
            rows.append((each.analyst, "-", "-", f"outage: {each.error}", ""))
    table = markdown_table(("analyst", "stance", "confidence", "rationale", "evidence"), rows)
    if synthesis is None:
        return table
    missing = ", ".join(synthesis.missing) or "nobody"
    return (
        f"{table}\n\nTogether: stance {synthesis.stance:+.3f}, confidence {synthesis.confidence:.3f}, agreement"
        f" {synthesis.agreement:.3f}, degradation level {synthesis.level}, missing: {missing}."
    )


def _plan(result: RunResult) -> str:
    plan = result.plan
    if plan is None:
        return "No plan was made."
    rows = [
        ("action", plan.action.name),
        ("quantity", f"{plan.quantity:f}"),
        ("target weight", f"{plan.target_weight:+.4f}"),
        ("entry", f"{plan.entry:f}"),
        ("stop", plan.stop or "-"),
        ("take profit", plan.take_profit or "-"),
        ("horizon", f"{plan.horizon_bars} bars"),
        ("revision", plan.revision),
        ("degradation level", plan.level),
    ]
    return markdown_table(("plan", "value"), rows)


def _checks(checks: Iterable[Check]) -> str:
    rows = [(each.name, "ok" if each.passed else "FAILED", each.value, each.limit, each.reason) for each in checks]
    return markdown_table(("check", "", "value", "limit", "reason"), rows)


def _orders(result: RunResult) -> str:
    if not result.orders:
        return "None."
    rows = [
        (each.client_order_id, each.intent.side, each.intent.quantity, each.price or "-", each.fee, each.status)
        for each in result.orders
    ]
    held = ", ".join(f"{each.quantity:f} {each.symbol}" for each in result.portfolio.positions) or "nothing"
    return (
        markdown_table(("client order id", "side", "quantity", "price", "fee", "status"), rows)
        + f"\n\nAccount {result.portfolio.account}: cash {result.portfolio.cash:.2f}, holding {held},"
        f" realised {result.portfolio.realised:.2f}, fees {result.portfolio.fees:.2f}."
    )


def _guards(result: RunResult) -> str:
    """Who had trouble; nothing is said of the others."""
    head = ("guard", "attempts", "failed", "refused", "retries", "trips", "fallbacks", "last error")
    rows = [
        (each.guard, each.attempts, each.failed, each.refused, each.retries, each.trips, each.fallbacks, each.error)
        for each in result.troubles
    ]
    return markdown_table(head, rows)


def _timeline(entries: Sequence[Entry]) -> str:
    if not entries:
        return "Nothing was recorded."
    rows = []
    for entry in entries:
        when = datetime.fromtimestamp(entry.time_ns / 1e9, tz=UTC).isoformat(timespec="milliseconds")
        detail = ", ".join(f"{name} {_short(value)}" for name, value in entry.detail.items() if value not in ("", None))
        rows.append((when, entry.subject or "run", entry.kind, detail))
    return markdown_table(("time", "step", "event", "detail"), rows)


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; whatever is in a cell cannot break it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    """A cell cannot hold a bar or a line break, wherever its text came from."""
    return as_text(value).replace("|", "\\|")


def as_text(value: object) -> str:
    """One line that Markdown takes for text: no tag, and no backslash that would free the bar after it."""
    return one_line(value).replace("\\", "\\\\").replace("<", "&lt;")
