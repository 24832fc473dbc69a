"""The operator's controls: halt, reduce, go on, and the log of all that.

To halt works whatever else is broken. The file `HALT` comes first, and needs neither settings nor a database; what the
database then keeps of it is for the log, and for other homes that share it.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.clock import SystemClock
from agents.domain import KillSwitchReason, Order, TradingState
from agents.errors import HoldfastError
from checkpoints.audit import Audit, AuditEntry
from checkpoints.halt_file import Halt, HaltFile, home_folder, user_name
from checkpoints.trading_state import digits, in_words
from graph.app import App, open_app
from graph.config import Settings, load_settings
from graph.flatten import Flattened, flatten
from graph.kill_switch import Swept
from graph.result import one_line, plain, state_line

__all__ = ["Answer", "halt", "list_audit", "reduce", "resume_trading", "verify_audit"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: objects for machines, lines for people, what went `wrong`, and whether all was done."""

    data: tuple[Mapping[str, Any], ...]
    lines: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    done: bool = True


async def halt(config: Path | None, flags: Mapping[str, Any], why: str, *, close: bool = False) -> Answer:
    """Halt trading, cancel what rests at the broker and, if asked, close all positions before.

    `config` and `flags` as `load_settings` has them: settings that cannot be used are no reason to trade on.

    Raises:
        StorageError: neither the file nor the database could be written: trading is not halted.
    """
    who, folder = user_name(os.getuid()), home_folder(flags.get("home"), config)
    closed, swept, trouble = Flattened(), Swept(), ""
    try:
        settings = load_settings(config, **flags)
        if isinstance(settings.address, Path) and not settings.address.exists():
            _halt_by_file(settings.folder, who, why)
        else:
            async with open_app(settings) as app:
                if close:
                    closed = await _closed(app, who, why)
                swept = await _halted(app, who, why)
    except Exception as error:  # noqa: BLE001 - whatever it is, trading is halted
        trouble = f"only the file halts trading: {in_words(error)}; what rests at the broker may rest there still"
        _halt_by_file(folder, who, why)
    done = not (closed.left or swept.left or (close and trouble))
    return replace(_halt_answer(folder, why, closed, swept, trouble), done=done)


def _halt_by_file(folder: Path, who: str, why: str) -> None:
    HaltFile(folder).write(Halt(KillSwitchReason.OPERATOR, who, why, SystemClock().now_ns()))


async def _halted(app: App, who: str, why: str) -> Swept:
    """The file was written before, and heeded when the application was opened: then it is done already."""
    kill, now = app.kill_switch(), await app.switch.read()
    if (now.state, now.code, now.who, now.why) != (TradingState.HALTED, KillSwitchReason.OPERATOR, who, why):
        await kill.trip(kill.because(TradingState.HALTED, KillSwitchReason.OPERATOR, who, why))
    swept = await kill.sweep(TradingState.HALTED)
    return Swept((*app.swept.done, *swept.done), swept.left)


def _halt_answer(folder: Path, why: str, closed: Flattened, swept: Swept, trouble: str) -> Answer:
    file = HaltFile(folder)
    by_file = file.read() is not None
    data = {
        "trading": "halted",
        "why": why,
        "file": str(file.path) if by_file else None,
        "cancelled": swept.cancelled,
        "not_cancelled": dict(swept.left),
        "closed": [_order_data(order) for order in closed.orders],
        "not_closed": closed.left,
        "error": trouble or None,
    }
    lines = [f"trading is HALTED{f' by {file.path}' if by_file else ''}: {one_line(why)}"]
    if closed.orders:
        lines.append(f"closed: {'; '.join(map(_order_line, closed.orders))}")
    if swept.cancelled:
        lines.append(f"{len(swept.cancelled)} resting orders were cancelled")
    wrong = [f"{name} was not closed: {reason}" for name, reason in closed.left.items()]
    wrong += [f"order {name} may still rest at the broker: {reason}" for name, reason in swept.left.items()]
    wrong += [trouble] if trouble else []
    return Answer((data,), tuple(lines), tuple(wrong))


def _order_data(order: Order) -> dict[str, Any]:
    intent = order.intent
    return {
        "client_order_id": order.client_order_id,
        "account": intent.account,
        "symbol": intent.symbol,
        "side": str(intent.side),
        "quantity": float(order.filled),
    }


def _order_line(order: Order) -> str:
    return f"{order.intent.side} {digits(order.filled)} {order.intent.symbol} ({order.intent.account})"


async def _closed(app: App, who: str, why: str) -> Flattened:
    """Close all positions under REDUCING, so that nothing opens another meanwhile."""
    kill, was = app.kill_switch(), await app.switch.read()
    reducing = kill.because(TradingState.REDUCING, KillSwitchReason.OPERATOR, who, why)
    try:
        if was.state is TradingState.HALTED:
            await app.switch.release(reducing, instead_of=was, detail={"for": "flatten"})
        else:
            await app.switch.trip(reducing)
        await kill.sweep(TradingState.HALTED)  # also what would close: it is closed by what follows
    except HoldfastError as error:
        return Flattened(left={"the positions": in_words(error)})
    return await flatten(app)


# Less strict, and stricter.


async def reduce(settings: Settings, why: str) -> Answer:
    """From now on only what closes a position goes; a state that is stricter stays."""
    async with open_app(settings) as app:
        kill, who = app.kill_switch(), user_name(os.getuid())
        swept = await kill.trip(kill.because(TradingState.REDUCING, KillSwitchReason.OPERATOR, who, why))
        now = await app.switch.read()
    data = {
        "trading": str(now.state),
        "why": now.why,
        "cancelled": swept.cancelled,
        "not_cancelled": dict(swept.left),
    }
    wrong = tuple(f"order {name} may still rest at the broker: {reason}" for name, reason in swept.left.items())
    if now.state is TradingState.HALTED:
        line = (
            f"trading stays HALTED ({one_line(now.why)}); to let what closes a position go: resume-trading --reducing"
        )
        return Answer((data,), (line,), wrong)
    line = f"trading is {now.state.upper()}: only what closes a position goes ({one_line(now.why)})"
    return Answer((data,), (line,), wrong, done=now.state is TradingState.REDUCING and not wrong)


async def resume_trading(settings: Settings, why: str, *, reducing: bool = False) -> Answer:
    """Let all orders go again, or what closes a position; says what that allows, and what was accepted with it."""
    state = TradingState.REDUCING if reducing else TradingState.ACTIVE
    async with open_app(settings) as app:
        now = await app.switch.read()
        if reducing and now.state is not TradingState.HALTED:
            line = f"trading is {now.state.upper()}, which allows that already; nothing was changed"
            return Answer(({"trading": str(now.state), "was": str(now.state)},), (line,))
        found, was = await app.books().activate(user_name(os.getuid()), why, state)
    data = {"trading": str(state), "was": str(was.state), "why": was.why, "accepted": len(found.differences)}
    allows = "what closes a position goes" if reducing else "every order goes that passes its checks"
    line = f"trading is {state.upper()}: {allows}; it was {state_line(was)}"
    accepted = (
        f"; {len(found.differences)} differences to the broker's books were accepted" if found.differences else ""
    )
    return Answer((data,), (one_line(line + accepted),))


# The log.


async def list_audit(settings: Settings) -> Answer:
    """Every entry of the audit log."""
    async with open_app(settings) as app:
        entries = await Audit(app.database).entries()
    lines = tuple(map(_entry_line, entries)) or ("the audit log is empty: the trading state was never changed",)
    return Answer(tuple(plain(entry) for entry in entries), lines)


def _entry_line(entry: AuditEntry) -> str:
    told = [f"{name} {value}" for name, value in entry.detail.items()]
    words = [str(entry.number), _time(entry.time_ns), entry.kind, ", ".join(told), f"by {entry.who}:", entry.why]
    return one_line("  ".join(map(str, words)))


def _time(time_ns: Any) -> str:
    """A row that somebody else has written may hold anything."""
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).isoformat(timespec="milliseconds")
    return str(time_ns)


async def verify_audit(settings: Settings) -> Answer:
    """Look for what is not as it was written."""
    async with open_app(settings) as app:
        found, apart = await Audit(app.database).verify(), await app.switch.unaudited()
    wrong = tuple(filter(None, (found.wrong, apart)))
    data = {"good": not wrong, "entries": found.count, "head": found.hash, "at": found.at, "wrong": list(wrong)}
    line = f"{found.count} entries are as they were written; the newest has hash {found.hash}"
    return Answer((data,), () if wrong else (line,), tuple(map(one_line, wrong)), done=not wrong)
