"""The verbs that look at runs or keep house, without running anything: show, prune, export, import."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.domain import Order
from agents.errors import ConfigError
from checkpoints.retention import Retention
from checkpoints.runs import Run, RunStatus
from graph.app import App
from graph.result import one_line, order_json, plain, run_json

__all__ = ["Told", "age_ns", "export_run", "import_run", "prune_runs", "show_run"]

_UNITS_S: Mapping[str, int] = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_VERBS: Mapping[str, str] = {"resume_command": "Resume", "fork_command": "Fork", "checkpoints_command": "States"}
_NAMED = 5
"""How many runs a line names; the JSON has all."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a verb has to say: `lines` for people, `data` for machines."""

    lines: Sequence[str]
    data: Mapping[str, Any]


def age_ns(text: str) -> int:
    """`7d`, `12h`, `30m` or `2w` in nanoseconds; raises ConfigError for anything else, a bare number above all."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if found is None:
        raise ConfigError(
            f"--keep {text!r:.40} is no age; nothing was pruned; give a number with its unit: 30m, 12h, 7d or 2w"
        )
    return int(found[1]) * _UNITS_S[found[2]] * 1_000_000_000


# Show.


async def show_run(app: App, run_id: str) -> Told:
    """A run as it stands, which is not touched; raises CheckpointNotFound."""
    run = await app.manager.run(run_id)
    count, size = await app.manager.size(run_id)
    orders, was = await app.ledger.orders(run_id), ""
    if run.status is RunStatus.IMPORTED:
        from checkpoints.archive import origin_of  # noqa: PLC0415 - what it needs takes a while to import

        was, orders = await origin_of(app.database, run_id)
    commands = _commands(run, was, app.settings.home_flag)
    settings = _flat(run.parameters.get("settings", {}))
    defaults = _flat(app.settings.of_run({}).shaping())
    changed = {name: value for name, value in settings.items() if defaults.get(name, ()) != value}
    told = run_json(run) | {
        "account": run.account,
        "owner": run.owner or None,
        "leased_until_ns": run.leased_until_ns or None,
        "was": was or None,
        "market": plain(run.parameters.get("market")),
        "settings": plain(run.parameters.get("settings")),
        "changed_settings": plain(changed),
        "checkpoints": count,
        "bytes": size,
        "orders": [order_json(order) for order in orders],
        **commands,
    }
    parts = (_standing(run, was), _shape(run, changed), [("Saved", f"{count} checkpoints, {_bytes(size)}")])
    lines = [line for part in parts for line in part] + [("Orders", _order_line(order)) for order in orders]
    lines += [("Error", run.error)] if run.error else []
    lines += [(_VERBS[name], command) for name, command in commands.items() if command]
    return Told([f"{name:<9} {one_line(text)}" for name, text in lines], told)


def _commands(run: Run, was: str, home: str) -> dict[str, str | None]:
    """How to go on with the run, and from it; None where nothing is left to do, or somebody else is at it."""
    resumable = run.status in {RunStatus.INTERRUPTED, RunStatus.STOPPED, RunStatus.FAILED}
    forkable = resumable or run.status is RunStatus.RUNNING or was not in {"", RunStatus.FINISHED}
    command = "python -m graph.run --{} " + run.run_id + home
    whole = run.workflow == "session"  # one without saved states of its own: those of its plans are theirs
    bare = whole or run.status is RunStatus.PRUNED
    return {
        "resume_command": command.format("resume") if resumable else None,
        "fork_command": command.format("fork") if forkable and not whole else None,
        "checkpoints_command": None if bare else command.format("checkpoints"),
    }


def _standing(run: Run, was: str) -> Iterator[tuple[str, str]]:
    yield "Run", f"{run.run_id} ({run.status})"
    if run.forked_from is not None:
        yield "Forked", f"from {run.forked_from} at {run.forked_at}"
    if run.status is RunStatus.IMPORTED:
        yield "Imported", f"it was {was} when it was exported; it can be looked at and forked, and not resumed"
    elif run.dry:
        yield "Dry", "it can place no order"
    if run.status is RunStatus.PRUNED:
        yield "Pruned", "its saved states are gone, and its orders are kept"
    if run.owner:
        yield "Held", f"by {run.owner} until {_time(run.leased_until_ns)}, and longer if that is renewed"


def _shape(run: Run, changed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Decides", f"on {run.symbol} as of {_time(run.as_of_ns)}, workflow {run.workflow}, account {run.account}"
    market = run.parameters.get("market")
    if isinstance(market, Mapping):
        files = ", ".join(f"{symbol} from {path}" for symbol, path in _flat(market.get("files")).items())
        yield "Bars", files or f"of the simulated market of seed {market.get('seed')}"
    if run.parameters:
        told = ", ".join(f"{name} {value}" for name, value in changed.items())
        yield "Settings", told or "all as they are without a settings file"
    yield "Started", f"{_time(run.created_ns)}, last changed {_time(run.updated_ns)}"


def _order_line(order: Order) -> str:
    intent = order.intent
    price = f" at {order.price:f}" if order.price else ""
    reason = f": {order.reason}" if order.reason else ""
    return f"{intent.intent_id} {intent.side} {intent.quantity:f} {intent.symbol} {order.status}{price}{reason}"


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


# Keep house.


async def prune_runs(app: App, keep: str, *, dry_run: bool) -> Told:
    """Prune what ended longer ago than `keep` says; raises ConfigError where that is no age."""
    age = age_ns(keep)
    on_server = not isinstance(app.settings.address, Path)
    retention = Retention(app.database, app.leases, app.settings.folder, app.clock, marks=on_server)
    pruned = await retention.prune(age, dry_run=dry_run)
    total, names = sum(pruned.runs.values()), list(pruned.runs)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    which = f": {', '.join(names[:_NAMED])}{more}" if names else ""
    verb = "would be pruned" if dry_run else "pruned"
    lines = [f"{_runs(len(names))} {verb}, {_bytes(total)}{which}"]
    if pruned.kept:
        lines.append("kept of that age: " + ", ".join(f"{count} {reason}" for reason, count in pruned.kept.items()))
    if pruned.compacted > 0:
        lines.append(f"the database's file is {_bytes(pruned.compacted)} shorter")
    elif pruned.free_bytes and not dry_run:
        room = f"{_bytes(pruned.free_bytes)} of {_bytes(pruned.file_bytes)}"
        lines.append(f"{room} in the database's file are free for later runs")
    data = {
        "pruned": [{"run_id": run_id, "bytes": size} for run_id, size in pruned.runs.items()],
        "dry_run": dry_run,
        "bytes": total,
        "kept": dict(pruned.kept),
        "file_bytes": pruned.file_bytes,
        "free_bytes": pruned.free_bytes,
        "compacted_bytes": pruned.compacted,
    }
    return Told(lines, data)


async def export_run(app: App, run_id: str, path: Path) -> Told:
    """Write a run to a new file; see `checkpoints.archive.Archive.export` for what it raises."""
    done = await _archive(app).export(run_id, path)
    line = one_line(f"exported {run_id} ({done.run.status}) to {path}, {_bytes(done.size)}")
    return Told([line], {"run_id": run_id, "file": str(path), "bytes": done.size})


async def import_run(app: App, path: Path) -> Told:
    """Take a run from a file; see `checkpoints.archive.Archive.take` for what it raises."""
    run = await _archive(app).take(path)
    line = f"imported {run.run_id} from {path}: it can place no order, and its orders are none of this home's"
    how = f"look at it by: python -m graph.run --show {run.run_id}{app.settings.home_flag}"
    return Told([one_line(line), how], run_json(run))


def _archive(app: App) -> Any:
    from checkpoints.archive import Archive  # noqa: PLC0415 - what it needs takes a while to import

    return Archive(app.database, app.saver, app.manager, app.settings.folder, app.clock)


# Words.


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).isoformat(timespec="seconds")


def _bytes(count: int) -> str:
    if count < 1_000:
        return f"{count} bytes"
    return f"{count / 1e3:,.1f} kB" if count < 1_000_000 else f"{count / 1e6:,.1f} MB"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
