"""Whether orders may go: one durable row, read in the transaction that reserves an order.

ACTIVE lets orders go, REDUCING those that only bring a position closer to zero, HALTED none. A state that cannot be
read is HALTED: whoever does not know whether to trade does not.

To stop is easy, and to go on is not. A stricter state is kept even where the audit log cannot be written, and HALTED
even where the database cannot: by the file `HALT` (see `checkpoints.halt_file`), or, where there is no room for that
either, by this process for as long as it lives. A less strict one needs somebody, a reason and its entry in the log.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Column, Connection, Integer, String, Table, event, insert, select, update

from agents.domain import KillSwitchReason, TradingState
from agents.errors import InputError, StorageError
from checkpoints import audit
from checkpoints.audit import AuditEntry
from checkpoints.database import Database, Prose, metadata
from checkpoints.halt_file import Halt, HaltFile
from checkpoints.statement import Statement

__all__ = [
    "Difference",
    "Tell",
    "Trading",
    "TradingSwitch",
    "be_careful",
    "digits",
    "in_words",
    "read_trading",
]

_LIFTED_BY_ITSELF = frozenset(
    {KillSwitchReason.RESTORED_BACKUP, KillSwitchReason.RECONCILIATION, KillSwitchReason.STALE_DATA}
)
_KIND = "trading_state"
"""The kind of the audit entries that tell of a change."""

_trading = Table(
    "trading_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("code", String(32), nullable=False),
    Column("who", Prose, nullable=False),
    Column("why", Prose, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
)

_READ = Statement(select(*(_trading.c[name] for name in ("state", "code", "who", "why", "since_ns"))))

_accepted = Table(
    "accepted_differences",
    metadata,
    Column("client_order_id", String(64), primary_key=True),
    Column("ledger", String(64), nullable=False),
    Column("broker", String(64), nullable=False),
    Column("who", Prose, nullable=False),
    Column("why", Prose, nullable=False),
    Column("since_ns", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Trading:
    """The state, and why it is so: `code` for machines, `who` and `why` for people, `since_ns` when it was set."""

    state: TradingState
    code: str
    who: str
    why: str
    since_ns: int

    @property
    def lasts(self) -> bool:
        """Whether trading is stopped until somebody lets it go on: Holdfast does not do so by itself."""
        passes = self.code in _LIFTED_BY_ITSELF or self.code == KillSwitchReason.UNREADABLE_STATE
        return self.state is not TradingState.ACTIVE and not passes


@dataclass(frozen=True, slots=True)
class Difference:
    """An order of which the ledger and the broker have not executed the same: signed quantities, and why it stays so.

    `account` is "" where only the broker knows the order, and not whose it is.
    """

    client_order_id: str
    account: str
    symbol: str
    ledger: Decimal
    broker: Decimal
    why: str

    @property
    def terms(self) -> tuple[str, str, str]:
        """What an operator accepts: this order with these quantities."""
        return (self.client_order_id, digits(self.ledger), digits(self.broker))


def digits(number: Decimal) -> str:
    """All digits of a number, without an exponent and without zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


Tell: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Is told, by a kind and its particulars, what people have to know at once; must not wait, and not raise."""

_AT_FIRST = Trading(TradingState.ACTIVE, "new", "", "", 0)
_UNKNOWN = Trading(TradingState.HALTED, KillSwitchReason.UNREADABLE_STATE, "", "the trading state was lost", 0)


class TradingSwitch:
    """The state in one database, and the differences to the broker's books that an operator has accepted.

    `halt_file`: of the home folder, None for a database without one. `tell` hears of each change (`TradingChanged`), of
    an entry that the audit log lacks (`AuditFailed`), and of a file that could not be written (`HaltFileFailed`).
    """

    def __init__(
        self, database: Database, halt_file: HaltFile | None = None, tell: Tell = lambda _kind, _detail: None
    ) -> None:
        self._database = database
        self._file = halt_file
        self._tell = tell
        self._here: Trading | None = None

    def now(self, connection: Connection) -> Trading:
        """The state that counts for an order that is reserved in the transaction of `connection`; never raises."""
        return self._stopped() or read_trading(connection)

    async def read(self) -> Trading:
        """The state as it is now; HALTED where it cannot be read."""
        return await self._database.aread(self.now)

    # To stop.

    def stop_here(self, halted: Trading) -> None:
        """Halt at once and without the database: from now on no order of this home goes, or at least of this process.

        To be followed by `heed`, which takes it into the database.
        """
        try:
            if self._file is None:
                self._here = halted
            else:
                self._file.write(Halt(halted.code, halted.who, halted.why, halted.since_ns))
        except StorageError as error:
            self._here = halted
            self._tell("HaltFileFailed", {"error": str(error)})

    async def trip(self, stricter: Trading) -> bool:
        """Set a state that is stricter than the one there is; True if it was, and has taken its place.

        Of two that are equally strict the first stays, but for one that Holdfast would lift by itself, or where it is
        an operator who asks.

        Raises:
            StorageError: the database could not be written. HALTED holds all the same, as `stop_here` has it.
        """
        if stricter.state is not TradingState.HALTED:
            return await self._tighten(stricter)
        self.stop_here(stricter)
        return await self._take_in(stricter)

    async def heed(self) -> Trading | None:
        """Take a halt that is not in the database yet into it; gives it, if there was one.

        Raises:
            StorageError: the database could not be written; it holds all the same.
        """
        stopped = self._stopped()
        return stopped if stopped is not None and await self._take_in(stopped) else None

    async def _take_in(self, halted: Trading) -> bool:
        """When the database has it, what Holdfast itself wrote in the file is not needed any more."""
        halt = self._halt()
        changed = await self._tighten(halted)
        self._here = None
        if halt is not None and halt.ours:
            try:
                self._remove(halt)
            except StorageError as error:  # trading is halted twice: that is no reason to fail
                self._tell("HaltFileFailed", {"error": str(error)})
        return changed

    async def _tighten(self, stricter: Trading) -> bool:
        def work(connection: Connection) -> AuditEntry | Exception | None:
            was = read_trading(connection)
            return _change(connection, was, stricter) if _takes_the_place(stricter, was) else None

        return self._told(stricter, await self._database.awrite(work))

    def _stopped(self) -> Trading | None:
        """What halts trading past the database."""
        halt = self._halt()
        if halt is None or self._here is not None:
            return self._here
        return Trading(TradingState.HALTED, halt.code, halt.who, halt.why, halt.since_ns)

    def _halt(self) -> Halt | None:
        return None if self._file is None else self._file.read()

    def _remove(self, halt: Halt) -> None:
        if self._file is not None:
            self._file.remove(halt)

    # To go on.

    async def release(self, looser: Trading, *, instead_of: Trading, detail: Mapping[str, Any] | None = None) -> bool:
        """Let orders go again, if the state is still what it was when it was read; False: it is another by now.

        A `HALT` file that was there then is removed. `detail` goes into the audit entry, which this cannot be without.

        Raises:
            InputError: it does not say who and why.
            StorageError: the database or the audit log could not be written, or the file not be removed: trading stays
                stopped.
        """
        if not (looser.who.strip() and looser.why.strip()):
            raise InputError("to let trading go on takes somebody and a reason; nothing was changed; give both")
        halt = self._halt()

        def work(connection: Connection) -> AuditEntry | Exception | None:
            as_was_read = self.now(connection) == instead_of
            return _change(connection, instead_of, looser, detail) if as_was_read else None

        if not self._told(looser, await self._database.awrite(work)):
            return False
        self._here = None
        if halt is not None:
            self._remove(halt)
        return True

    async def set(self, trading: Trading, *, instead_of: Trading) -> bool:
        """Set the row's state, stricter or not, if it is still what it was. False: somebody else has set it since.

        Raises:
            StorageError: it would be less strict, and the audit log could not be written; nothing was changed.
        """

        def work(connection: Connection) -> AuditEntry | Exception | None:
            as_was_read = read_trading(connection) == instead_of
            return _change(connection, instead_of, trading) if as_was_read else None

        return self._told(trading, await self._database.awrite(work))

    def _told(self, trading: Trading, entry: AuditEntry | Exception | None) -> bool:
        """Tell of a change, if there was one. An entry's number and hash go to where the log is not."""
        audited = {"entry": entry.number, "hash": entry.hash} if isinstance(entry, AuditEntry) else {}
        if entry is not None:
            self._tell("TradingChanged", asdict(trading) | audited)
        if isinstance(entry, Exception):
            self._tell("AuditFailed", {"state": str(trading.state), "error": in_words(entry)})
        return entry is not None

    async def unaudited(self) -> str:
        """How the state is another than the audit log says last, "" where it is not.

        One that is stricter may be so by right: then the log could not be written.
        """

        def work(connection: Connection) -> str:
            row, entry = read_trading(connection), audit.newest(connection, _KIND)
            told = _AT_FIRST if entry is None else _trading_in(entry)
            if row == told:
                return ""
            by_right = told is not None and _is_stricter(row, told)
            stands = "nothing" if told is None else f"{told.state} ({told.code}: {told.why})"
            return (
                f"the trading state is {row.state} ({row.code}: {row.why}), and the audit log has {stands} last; it was"
                + (" set when the log could not be written" if by_right else " changed past this program")
            )

        return await self._database.aread(work)

    # The differences.

    async def accept(self, differences: Iterable[Difference], who: str, why: str, now_ns: int) -> None:
        """From now on these are no reason to be careful, as long as the quantities stay what they are."""
        given = tuple(each.terms for each in differences)

        def work(connection: Connection) -> None:
            for name, ledger, broker in given:
                connection.execute(_accepted.delete().where(_accepted.c.client_order_id == name))
                row = {"client_order_id": name, "ledger": ledger, "broker": broker, "who": who, "why": why}
                connection.execute(insert(_accepted).values(**row, since_ns=now_ns))

        await self._database.awrite(work)

    async def accepted(self) -> frozenset[tuple[str, str, str]]:
        """The `terms` of the differences that were accepted."""
        query = select(_accepted.c.client_order_id, _accepted.c.ledger, _accepted.c.broker)
        rows = await self._database.aread(lambda connection: connection.execute(query).all())
        return frozenset((row.client_order_id, row.ledger, row.broker) for row in rows)


def read_trading(connection: Connection) -> Trading:
    """The state, in the transaction of `connection`; whatever is wrong with it, it is HALTED then."""
    try:
        ((state, code, who, why, since_ns),) = _READ.rows(connection)
        return Trading(TradingState(state), code, who, why, since_ns)
    except Exception as error:  # noqa: BLE001 - no kind of trouble may let an order through
        why = f"the trading state cannot be read ({in_words(error)})"
        return Trading(TradingState.HALTED, KillSwitchReason.UNREADABLE_STATE, "", why, 0)


def be_careful(connection: Connection, careful: Trading) -> Exception | None:
    """Set this state where trading is ACTIVE; one that is stricter, or was set before, stays.

    Gives what kept the audit log from being written.
    """
    was = read_trading(connection)
    entry = _change(connection, was, careful) if was.state is TradingState.ACTIVE else None
    return entry if isinstance(entry, Exception) else None


def in_words(error: Exception) -> str:
    """An error on one line, and no longer than one."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


_STRICTNESS = tuple(TradingState)


def _is_stricter(one: Trading, other: Trading) -> bool:
    return _STRICTNESS.index(one.state) > _STRICTNESS.index(other.state)


def _takes_the_place(stricter: Trading, was: Trading) -> bool:
    if stricter.state is not was.state:
        return _is_stricter(stricter, was)
    weak = stricter.code == KillSwitchReason.OPERATOR or was.code in _LIFTED_BY_ITSELF
    return weak and stricter != was


def _change(
    connection: Connection, was: Trading, now: Trading, detail: Mapping[str, Any] | None = None
) -> AuditEntry | Exception:
    """Set the state, and tell the audit log. Gives what kept the log from being written, where it may go without."""
    _set(connection, now)
    change = {"from": str(was.state), "was": was.code, "to": str(now.state), "code": now.code, **(detail or {})}
    try:
        with connection.begin_nested():
            return audit.append(connection, time_ns=now.since_ns, kind=_KIND, who=now.who, why=now.why, detail=change)
    except Exception as error:
        if _is_stricter(was, now):
            raise
        return error


def _trading_in(entry: AuditEntry) -> Trading | None:
    try:
        state, code = TradingState(entry.detail["to"]), str(entry.detail["code"])
    except (KeyError, ValueError):
        return None
    return Trading(state, code, entry.who, entry.why, entry.time_ns)


def _set(connection: Connection, trading: Trading) -> None:
    values = {
        "state": trading.state,
        "code": trading.code,
        "who": trading.who,
        "why": trading.why,
        "since_ns": trading.since_ns,
    }
    if connection.execute(update(_trading).values(**values)).rowcount != 1:
        connection.execute(_trading.delete())
        connection.execute(insert(_trading).values(id=1, **values))


def _begin(_table: Table, connection: Connection, **_: Any) -> None:
    """A new database trades; one that has lost this table has what its audit log says last.

    The row is there from the start, so that one that is missing is damage.
    """
    entry = audit.newest(connection, _KIND)
    _set(connection, _AT_FIRST if entry is None else _trading_in(entry) or _UNKNOWN)


_trading.add_is_dependent_on(audit.rows)
event.listen(_trading, "after_create", _begin)
