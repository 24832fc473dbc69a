"""What the records of a run's file are made of, and what is made of them when they are found to fit each other."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Self, cast

from agents.domain import Check, Fill, Order, OrderIntent, OrderStatus, OrderType, Side, check_symbol
from agents.errors import BadArchive, InvalidValue
from checkpoints import store
from checkpoints.archive_records import (
    CheckpointRecord,
    CheckRecord,
    EntryRecord,
    FillRecord,
    OrderRecord,
    Records,
    RunRecord,
    ValueRecord,
    WriteRecord,
)
from checkpoints.events import Entry
from checkpoints.imported import Origin
from checkpoints.registry import Run, RunStatus, id_stem
from checkpoints.store import CheckpointRow, WriteRow

__all__ = [
    "Import",
    "checkpoint_record",
    "entry_record",
    "order_of",
    "order_record",
    "run_record",
    "value_record",
    "write_record",
    "write_row",
]


def run_record(run: Run, origin: Origin | None) -> RunRecord:
    """The registry's row."""
    return RunRecord(
        run_id=run.run_id,
        workflow=run.workflow,
        symbol=run.symbol,
        as_of_ns=run.as_of_ns,
        account=run.account,
        status=cast("Any", str(run.status) if origin is None else origin.status),
        fingerprint=json.dumps(dict(run.fingerprint), sort_keys=True),
        parameters=json.dumps(dict(run.parameters), sort_keys=True),
        error=run.error,
        created_ns=run.created_ns,
        updated_ns=run.updated_ns,
        forked_from=run.forked_from,
        forked_at=run.forked_at,
        dry=run.dry,
    )


def checkpoint_record(row: CheckpointRow) -> CheckpointRecord:
    """A saved state."""
    return CheckpointRecord(
        ns=row.ns,
        checkpoint_id=row.checkpoint_id,
        parent_id=row.parent_id,
        run_id=row.run_id,
        kind=cast("Any", row.kind),
        size=len(row.body),
    )


def value_record(ns: str, name: tuple[str, str], of: str, kind: str, body: bytes) -> ValueRecord:
    """A value, which a channel `of` has."""
    return ValueRecord(ns=ns, channel=name[0], version=name[1], of=of, kind=cast("Any", kind), size=len(body))


def write_record(row: WriteRow) -> WriteRecord:
    """What a task has put out."""
    return WriteRecord(
        ns=row.ns,
        checkpoint_id=row.checkpoint_id,
        task_id=row.task_id,
        idx=row.idx,
        task_path=row.task_path,
        channel=row.channel,
        kind=cast("Any", row.kind.removeprefix(store.REFERENCE)),
        value=row.digest,
        size=0 if row.digest else len(row.body),
    )


def entry_record(entry: Entry) -> EntryRecord:
    """An entry of the timeline."""
    detail = json.dumps(dict(entry.detail))
    return EntryRecord(time_ns=entry.time_ns, kind=entry.kind, subject=entry.subject, detail=detail)


def order_record(order: Order, fills: Sequence[Fill]) -> OrderRecord:
    """An order with its fills."""
    intent = order.intent
    return OrderRecord(
        intent_id=intent.intent_id,
        account=intent.account,
        symbol=intent.symbol,
        side=cast("Any", str(intent.side)),
        type=cast("Any", str(intent.type)),
        quantity=f"{intent.quantity:f}",
        limit_price=None if intent.limit_price is None else f"{intent.limit_price:f}",
        stop_price=None if intent.stop_price is None else f"{intent.stop_price:f}",
        attempt=intent.attempt,
        reference_price=f"{intent.reference_price:f}",
        reference_ns=intent.reference_ns,
        decision=intent.decision,
        leg=intent.leg,
        status=cast("Any", str(order.status)),
        broker_order_id=order.broker_order_id,
        reason=order.reason,
        checks=[CheckRecord(**asdict(check)) for check in order.checks],
        fills=[
            FillRecord(
                trade_id=fill.trade_id,
                quantity=f"{fill.quantity:f}",
                price=f"{fill.price:f}",
                fee=f"{fill.fee:f}",
                time_ns=fill.time_ns,
            )
            for fill in fills
        ],
    )


# Made into it.


@dataclass(frozen=True, slots=True)
class Import:
    """The records of a file, found to fit each other, and what is made of them."""

    records: Records
    row: Mapping[str, Any]
    entries: Sequence[Entry]
    orders: str

    @classmethod
    def of(cls, records: Records) -> Self:
        """Raises BadArchive where they do not fit."""
        run_id = records.run.run_id
        _check_id(records.run)
        _check_keys(records)
        try:
            for record in records.orders:
                order_of(record, run_id)
            entries = [
                Entry(run_id, each.time_ns, each.kind, each.subject, _object(each.detail)) for each in records.entries
            ]
            orders = f"[{','.join(each.model_dump_json() for each in records.orders)}]"
            return cls(records, _row(records.run), entries, orders)
        except (ValueError, RecursionError) as error:
            raise BadArchive(f"has a record that does not fit ({error!s:.300})") from error


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise InvalidValue(f"{text:.40} is no object")
    return found


def _check_id(run: RunRecord) -> None:
    """The id must be one that this run can have; the count in it must leave room for the next ones."""
    stem = id_stem(run.workflow, run.symbol, run.as_of_ns)
    if not re.fullmatch(re.escape(stem) + "[1-9][0-9]{0,8}", run.run_id):
        raise BadArchive(f"has a run {run.run_id}, whose id does not follow from what it is: it should be {stem}N")
    if run.forked_from == run.run_id:
        raise BadArchive(f"has a run {run.run_id} that was forked from itself")


def _check_keys(records: Records) -> None:
    """Each row once; a checkpoint after its parent, so that nobody goes round in a circle; no write of nothing."""
    places = {(each.ns, each.checkpoint_id) for each, _ in records.checkpoints}
    saved: set[tuple[str, str]] = set()
    for each, _ in records.checkpoints:
        parent = (each.ns, each.parent_id or "")
        if parent in places and parent not in saved:
            raise BadArchive(f"has checkpoint {each.checkpoint_id} before its parent")
        saved.add((each.ns, each.checkpoint_id))
    if any((each.ns, each.checkpoint_id) not in saved or (each.value and body) for each, body in records.writes):
        raise BadArchive("has a write that belongs to no checkpoint, or has two contents")
    for value, body in records.values:
        if value.channel == store.BY_CONTENT and store.digest_of(value.kind, body) != value.version:
            raise BadArchive(f"has a value that is not what its name says ({value.version:.80})")
    keys: list[Any] = [
        *((each.ns, each.checkpoint_id) for each, _ in records.checkpoints),
        *((each.ns, each.channel, each.version) for each, _ in records.values),
        *((each.ns, each.checkpoint_id, each.task_id, each.idx) for each, _ in records.writes),
        *(each.intent_id for each in records.orders),
        *(each.name for each, _ in records.reports),
    ]
    if len(set(keys)) < len(keys):
        raise BadArchive("has a record twice")


def _row(run: RunRecord) -> dict[str, Any]:
    """The row of the registry, but for what it gets here: nobody's, dry, and with an account of its own."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "symbol": check_symbol(run.symbol),
        "as_of_ns": run.as_of_ns,
        "account": run.run_id,
        "status": RunStatus.IMPORTED,
        "fingerprint": json.dumps(_object(run.fingerprint), sort_keys=True),
        "parameters": json.dumps(_object(run.parameters), sort_keys=True),
        "error": run.error,
        "created_ns": run.created_ns,
        "forked_from": run.forked_from,
        "forked_at": run.forked_at,
        "dry": True,
    }


def order_of(record: OrderRecord, run_id: str) -> Order:
    """The order, as the ledger had it; raises InvalidValue where it cannot have had that."""
    intent = OrderIntent(
        intent_id=record.intent_id,
        run_id=run_id,
        account=record.account,
        symbol=record.symbol,
        side=Side(record.side),
        quantity=Decimal(record.quantity),
        reference_price=Decimal(record.reference_price),
        reference_ns=record.reference_ns,
        decision=record.decision,
        leg=record.leg,
        type=OrderType(record.type),
        limit_price=None if record.limit_price is None else Decimal(record.limit_price),
        stop_price=None if record.stop_price is None else Decimal(record.stop_price),
        attempt=record.attempt,
    )
    fills = [
        Fill(
            trade_id=each.trade_id,
            client_order_id=intent.intent_id,
            symbol=intent.symbol,
            side=intent.side,
            quantity=Decimal(each.quantity),
            price=Decimal(each.price),
            fee=Decimal(each.fee),
            time_ns=each.time_ns,
        )
        for each in record.fills
    ]
    filled = sum((fill.quantity for fill in fills), Decimal(0))
    return Order(
        intent=intent,
        status=OrderStatus(record.status),
        filled=filled,
        price=sum((fill.quantity * fill.price for fill in fills), Decimal(0)) / filled if filled else None,
        fee=sum((fill.fee for fill in fills), Decimal(0)),
        broker_order_id=record.broker_order_id,
        reason=record.reason,
        checks=tuple(Check(**check.model_dump()) for check in record.checks),
    )


def write_row(run_id: str, write: WriteRecord, body: bytes) -> WriteRow:
    """The row of a write."""
    place = (run_id, write.ns, write.checkpoint_id, write.task_id, write.idx, write.task_path, write.channel)
    if write.value is None:
        return WriteRow(*place, write.kind, body)
    return WriteRow(*place, store.REFERENCE + write.kind, write.value.encode())
