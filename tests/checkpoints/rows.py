"""Rows for the tests of what is stored."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, func, select

from checkpoints import loading, store
from checkpoints.database import Database
from checkpoints.patch import make_patch
from checkpoints.store import CheckpointRow, ValueRow, WriteRow

CHECKPOINT = CheckpointRow("t", "", "c1", None, "run", "msgpack", b"checkpoint body")
VALUE = ValueRow("t", "", "items", "1", None, 0, "msgpack", b"value body")
WRITE = WriteRow("t", "", "c1", "task", 0, "path", "items", "msgpack", b"write body")

SET_BACK = ["0005", "0006", "0007", "0001", "0002", "0003"]
"""Ids in the order of saving, where the wall clock was set back."""


def save_all(connection: Connection) -> None:
    """One row of each kind."""
    store.save_checkpoint(connection, CHECKPOINT)
    store.save_values(connection, [VALUE])
    store.save_writes(connection, [WRITE])


def load_all(connection: Connection) -> tuple[object, ...]:
    """What `save_all` saved."""
    return (
        loading.find_checkpoint(connection, "t", "", "c1"),
        loading.load_values(connection, "t", "", [("items", "1")]),
        loading.load_writes(connection, "t", "", ["c1"]),
    )


def count(database: Database, table: Any) -> int:
    """The number of rows."""
    query = select(func.count()).select_from(table)
    return int(database.read(lambda connection: connection.execute(query).scalar_one()))


def save_line(connection: Connection, length: int, thread_id: str = "t", ns: str = "") -> None:
    """Checkpoints that follow each other."""
    for number in range(length):
        parent = f"{number - 1:04}" if number else None
        store.save_checkpoint(connection, CheckpointRow(thread_id, ns, f"{number:04}", parent, None, "k", b"x"))


def save_set_back(connection: Connection, thread_id: str = "t") -> None:
    """Checkpoints whose ids go down in between."""
    for parent, checkpoint_id in pairwise([None, *SET_BACK]):
        assert checkpoint_id is not None
        store.save_checkpoint(connection, CheckpointRow(thread_id, "", checkpoint_id, parent, None, "k", b"x"))


def grown(length: int) -> list[ValueRow]:
    """Versions of one value that grows, each a difference to the one before."""
    bodies = [bytes(range(200)) * 5 + b"more" * number for number in range(length)]
    rows = [replace(VALUE, version="0", body=bodies[0])]
    for number, (old, new) in enumerate(pairwise(bodies), start=1):
        patch = make_patch(old, new)
        assert patch is not None
        rows.append(replace(VALUE, version=str(number), base=str(number - 1), depth=number, body=patch))
    return rows
