"""The records of which the file of a run consists.

Nothing that comes from a file is believed: each field has a type, a length and an alphabet, and records that no run can
have are refused. No text in them becomes a path.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from agents.errors import BadArchive

__all__ = [
    "CONTENT_BYTES_MAX",
    "CheckRecord",
    "CheckpointRecord",
    "EntryRecord",
    "FillRecord",
    "Item",
    "OrderRecord",
    "Record",
    "Records",
    "ReportName",
    "ReportRecord",
    "RunRecord",
    "ValueRecord",
    "WriteRecord",
    "any_record",
    "order_records",
]

CONTENT_BYTES_MAX = 256 * 2**20
"""What a file may hold when it is decompressed. A usual run has less than a thousandth of that."""


def _sound(text: str) -> str:
    if "\0" in text:
        raise ValueError("there is NUL in a text")
    return text


_Text: TypeAlias = Annotated[str, AfterValidator(_sound), Field(max_length=10_000)]
_Short: TypeAlias = Annotated[str, AfterValidator(_sound), Field(max_length=64)]
_Prose: TypeAlias = Annotated[str, AfterValidator(_sound), Field(max_length=4_000_000)]
_Id: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Number: TypeAlias = Annotated[str, Field(pattern=r"^-?[0-9]{1,30}(\.[0-9]{1,30})?$")]
_Ns: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
_Size: TypeAlias = Annotated[int, Field(ge=0, le=CONTENT_BYTES_MAX)]
_Kind: TypeAlias = Literal["msgpack", "null", "bytes", "bytearray"]
"""The serializer's kinds that are data; `json` can name constructors, and `pickle` is code."""


class _Strict(BaseModel):
    # What was measured may be no number, and is kept as it was.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ser_json_inf_nan="constants")


class RunRecord(_Strict):
    """The row of the registry. `status` is as it was seen when the run was exported; `account` is told, not used.

    `fingerprint` and `parameters`, and the detail of entries, are JSON of their own: it has numbers that are none.
    """

    record: Literal["run"] = "run"
    run_id: _Id
    workflow: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,32}$")]
    symbol: Annotated[str, AfterValidator(_sound), Field(max_length=32)]
    as_of_ns: _Ns
    account: _Short
    status: Literal["running", "interrupted", "stopped", "failed", "finished"]
    fingerprint: _Prose
    parameters: _Prose
    error: _Prose
    created_ns: _Ns
    updated_ns: _Ns
    forked_from: _Id | None
    forked_at: _Id | None
    dry: bool


class CheckpointRecord(_Strict):
    """A saved state, without the values that are records of their own."""

    record: Literal["checkpoint"] = "checkpoint"
    ns: _Text
    checkpoint_id: _Id
    parent_id: _Id | None
    run_id: _Text | None
    kind: _Kind
    size: _Size


class ValueRecord(_Strict):
    """A whole value under its name. `of`: a channel that has it, whose other values it may resemble."""

    record: Literal["value"] = "value"
    ns: _Text
    channel: _Text
    version: _Text
    of: _Text
    kind: _Kind
    size: _Size


class WriteRecord(_Strict):
    """What a task has put out; `value`: the name of the value that has the content, which is then not here."""

    record: Literal["write"] = "write"
    ns: _Text
    checkpoint_id: _Id
    task_id: _Text
    idx: Annotated[int, Field(ge=-1_000, le=1_000_000)]
    task_path: _Text
    channel: _Text
    kind: _Kind
    value: _Digest | None
    size: _Size


class EntryRecord(_Strict):
    """An entry of the timeline."""

    record: Literal["entry"] = "entry"
    time_ns: _Ns
    kind: Annotated[str, AfterValidator(_sound), Field(max_length=32)]
    subject: _Short
    detail: _Prose


class CheckRecord(_Strict):
    """A check of an order."""

    name: _Text
    passed: bool
    value: int | float | _Text
    limit: int | float | _Text
    reason: _Text


class FillRecord(_Strict):
    """A fill of an order, whose symbol and side it has."""

    trade_id: _Short
    quantity: _Number
    price: _Number
    fee: _Number
    time_ns: _Ns


class OrderRecord(_Strict):
    """An order with its fills, as the ledger has it."""

    record: Literal["order"] = "order"
    intent_id: _Id
    account: _Short
    symbol: Annotated[str, AfterValidator(_sound), Field(max_length=32)]
    side: Literal["buy", "sell"]
    type: Literal["market", "limit", "stop", "stop_limit"]
    quantity: _Number
    limit_price: _Number | None
    reference_price: _Number
    reference_ns: _Ns
    decision: Annotated[int, Field(ge=0, lt=2**31)]
    leg: Annotated[str, AfterValidator(_sound), Field(max_length=32)]
    stop_price: _Number | None = None
    attempt: Annotated[int, Field(ge=1, lt=1_000)] = 1
    status: Literal["pending", "denied", "sending", "open", "filled", "rejected", "cancelled", "unknown", "not_placed"]
    broker_order_id: _Short
    reason: _Prose
    checks: list[CheckRecord]
    fills: list[FillRecord]


ReportName: TypeAlias = Literal["report.md", "report.json"]


class ReportRecord(_Strict):
    """A file of the run's folder; these and no others."""

    record: Literal["report"] = "report"
    name: ReportName
    size: _Size


Record: TypeAlias = RunRecord | CheckpointRecord | ValueRecord | WriteRecord | EntryRecord | OrderRecord | ReportRecord
order_records: TypeAdapter[list[OrderRecord]] = TypeAdapter(list[OrderRecord])
any_record: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="record")])

Item: TypeAlias = tuple[Record, bytes]
"""A record and the bytes that follow it, if any."""


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a file, in their order, each kind by itself."""

    run: RunRecord
    checkpoints: Sequence[tuple[CheckpointRecord, bytes]]
    values: Sequence[tuple[ValueRecord, bytes]]
    writes: Sequence[tuple[WriteRecord, bytes]]
    entries: Sequence[EntryRecord]
    orders: Sequence[OrderRecord]
    reports: Sequence[tuple[ReportRecord, bytes]]

    @classmethod
    def of(cls, items: Iterable[Item]) -> Self:
        """Sort the records by kind; raises BadArchive where there is not one run among them, and it the first."""
        found: dict[type, list[Any]] = {}
        for record, body in items:
            bare = isinstance(record, RunRecord | EntryRecord | OrderRecord)
            found.setdefault(type(record), []).append(record if bare else (record, body))
            if RunRecord not in found:
                break
        if len(found.get(RunRecord, ())) != 1:
            raise BadArchive("does not begin with one run")
        kinds = (CheckpointRecord, ValueRecord, WriteRecord, EntryRecord, OrderRecord, ReportRecord)
        return cls(found[RunRecord][0], *(found.get(kind, []) for kind in kinds))
