from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update

from agents.errors import CheckpointDamaged
from checkpoints import loading, store, upkeep
from checkpoints.database import Database
from checkpoints.store import CheckpointRow
from tests.checkpoints.rows import (
    CHECKPOINT,
    SET_BACK,
    VALUE,
    WRITE,
    count,
    grown,
    load_all,
    save_all,
    save_line,
    save_set_back,
)


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    with Database.open(address) as opened:
        yield opened


def test_sweeping_keeps_what_a_used_value_is_a_difference_to(database: Database) -> None:
    rows = [*grown(10), replace(VALUE, channel="other")]
    database.write(lambda connection: store.save_values(connection, [*rows, replace(rows[0], ns="child")]))

    database.write(lambda connection: upkeep.sweep_values(connection, "t", "", [("items", "6")]))

    assert count(database, store.values) == 7 + 1  # versions 0 to 6, and the other namespace
    assert database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "6")]))


def test_sweeping_keeps_the_contents_of_writes(database: Database) -> None:
    contents = [replace(VALUE, channel=store.BY_CONTENT, version=f"{number:032}") for number in range(3)]
    writes = [
        replace(WRITE, kind=store.REFERENCE + "msgpack", body=b"%032d" % 1),
        replace(WRITE, idx=1, body=b"%032d" % 2),
    ]
    database.write(lambda connection: store.save_values(connection, contents))
    database.write(lambda connection: store.save_writes(connection, writes))
    database.write(lambda connection: upkeep.sweep_values(connection, "t", "", [("", f"{0:032}")]))

    stored = database.read(lambda connection: store.stored_digests(connection, "t", "", {f"{n:032}" for n in range(3)}))
    assert stored == {f"{number:032}" for number in (0, 1)}


# Copying and deleting.


@pytest.mark.parametrize("chunk", [2, 500])
def test_a_copied_thread_keeps_its_order(database: Database, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_CHUNK", chunk)
    database.write(lambda connection: save_line(connection, 10, "u"))
    database.write(save_set_back)
    database.write(lambda connection: upkeep.copy_thread(connection, "t", "copy"))
    own = CheckpointRow("copy", "", "0000", "0003", None, "k", b"x")
    database.write(lambda connection: store.save_checkpoint(connection, own))
    database.write(lambda connection: upkeep.copy_thread(connection, "t", "copy"))  # what is there stays where it is

    assert database.read(lambda connection: loading.find_ids(connection, "copy", "")) == ["0000", *SET_BACK[::-1]]
    numbers = database.read(lambda connection: connection.execute(select(store.checkpoints.c.number)).scalars().all())
    assert len(set(numbers)) == len(numbers) == 10 + 6 + 6 + 1


def test_a_copied_thread_reads_alike_and_is_its_own(database: Database) -> None:
    database.write(save_all)
    database.write(lambda connection: upkeep.copy_thread(connection, "t", "u"))
    database.write(lambda connection: upkeep.copy_thread(connection, "t", "u"))
    database.write(lambda connection: upkeep.delete_thread(connection, "t"))

    assert database.read(lambda connection: loading.find_checkpoint(connection, "u", "", None)) == replace(
        CHECKPOINT, thread_id="u"
    )
    assert database.read(lambda connection: loading.load_writes(connection, "u", "", ["c1"]))["c1"]
    assert database.read(load_all) == (None, {}, {"c1": []})


def test_damage_is_not_copied(database: Database) -> None:
    database.write(save_all)
    database.write(lambda connection: connection.execute(update(store.values).values(body=b"spoilt")))

    with pytest.raises(CheckpointDamaged, match="stored value"):
        database.write(lambda connection: upkeep.copy_thread(connection, "t", "u"))
    assert database.read(lambda connection: loading.find_checkpoint(connection, "u", "", None)) is None


def test_a_copy_replaces_nothing(database: Database) -> None:
    rows = [replace(WRITE, idx=-1, body=b"theirs"), replace(WRITE, thread_id="u", idx=-1, body=b"own")]
    values = [replace(VALUE, body=b"theirs"), replace(VALUE, thread_id="u", body=b"own")]
    database.write(lambda connection: [store.save_writes(connection, rows), store.save_values(connection, values)])
    database.write(lambda connection: upkeep.copy_thread(connection, "t", "u"))

    found = database.read(lambda connection: loading.load_writes(connection, "u", "", ["c1"]))["c1"]
    assert [row.body for row in found] == [b"own"]
    kept = database.read(lambda connection: loading.load_values(connection, "u", "", [("items", "1")]))
    assert kept["items", "1"][1] == b"own"


def _named(body: bytes) -> str:
    return store.digest_of(VALUE.kind, body)


def test_a_part_of_a_thread_is_copied_with_all_that_it_is_made_of(database: Database) -> None:
    """Versions 0 to 6 of a value for the last checkpoint, and what the first has put out, but not the last."""
    content = replace(VALUE, channel=store.BY_CONTENT, version=_named(b"put out"), body=b"put out")
    rows = [CheckpointRow("t", "", f"{number:04}", None, None, "k", b"x") for number in range(4)]
    put_out = replace(WRITE, checkpoint_id="0000", kind=store.REFERENCE + "msgpack", body=content.version.encode())

    def save(connection: Connection) -> None:
        save_line(connection, 4)
        store.save_values(connection, [*grown(10), content, replace(content, version=f"{8:032}")])
        store.save_writes(connection, [put_out, replace(put_out, checkpoint_id="0002"), replace(WRITE, ns="child")])

    database.write(save)
    used = {"": [("items", "6")]}
    database.write(
        lambda connection: upkeep.copy_part(connection, "t", "u", rows[:3], used, but_writes_of="0002"),
    )

    assert database.read(lambda connection: loading.find_ids(connection, "u", "")) == ["0002", "0001", "0000"]
    written = database.read(lambda connection: loading.load_writes(connection, "u", "", ["0000", "0002"]))
    assert {name: [row.body for row in some] for name, some in written.items()} == {"0000": [b"put out"], "0002": []}
    names = select(store.values.c.channel, store.values.c.version).where(store.values.c.thread_id == "u")
    copied = {(row[0], row[1]) for row in database.read(lambda connection: connection.execute(names).all())}
    assert copied == {("items", f"{version}") for version in range(7)} | {("", content.version)}
    loaded = database.read(lambda connection: loading.load_values(connection, "u", "", [("items", "6")]))
    assert loaded == database.read(lambda connection: loading.load_values(connection, "t", "", [("items", "6")]))


def test_damage_is_not_copied_in_part_either(database: Database) -> None:
    database.write(save_all)
    database.write(lambda connection: connection.execute(update(store.values).values(body=b"spoilt")))

    used = {"": [(VALUE.channel, VALUE.version)]}
    with pytest.raises(CheckpointDamaged, match="stored value"):
        database.write(
            lambda connection: upkeep.copy_part(connection, "t", "u", [CHECKPOINT], used, but_writes_of="c1"),
        )


def test_the_size_of_a_thread_is_that_of_what_it_stores(database: Database) -> None:
    assert database.read(lambda connection: upkeep.size_of(connection, "t")) == (0, 0)
    database.write(save_all)
    database.write(lambda connection: save_line(connection, 5, "u"))
    sizes = database.read(lambda connection: [upkeep.size_of(connection, name) for name in ("t", "u")])
    assert sizes == [(1, len(CHECKPOINT.body + VALUE.body + WRITE.body)), (5, 5)]
