"""What values are saved as: each content once, as little of it as will do, and never less than what is needed."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update

from agents.errors import CheckpointDamaged
from checkpoints import contents as module
from checkpoints import loading, store
from checkpoints.contents import Content, Contents
from checkpoints.database import Database
from tests.checkpoints.rows import count

_PLACE = ("t", "")


def _noise(length: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311 (test data)


_VIEW = _noise(30_000)


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    with Database.open(address) as opened:
        yield opened


def _value(body: bytes, version: str = "1", channel: str = "c") -> Content:
    return Content(channel, version, "msgpack", body, store.digest_of("msgpack", body))


def _write(body: bytes, channel: str = "c") -> Content:
    return Content(channel, None, "msgpack", body, store.digest_of("msgpack", body))


def _save(database: Database, contents: Contents, *some: Content) -> None:
    database.write(lambda connection: contents.save(connection, _PLACE, some))


def _load(database: Database, content: Content) -> bytes:
    name = (store.BY_CONTENT, content.digest)
    return database.read(lambda connection: loading.load_values(connection, *_PLACE, [name]))[name][1]


def _bases(database: Database) -> dict[str, str | None]:
    query = select(store.values.c.version, store.values.c.base)
    return {row[0]: row[1] for row in database.read(lambda connection: connection.execute(query).all())}


def _sizes(database: Database) -> list[int]:
    query = select(store.values.c.body)
    return [len(body) for body in database.read(lambda connection: connection.execute(query).scalars().all())]


def _forget(database: Database, *gone: Content) -> None:
    digests = [content.digest for content in gone]
    work: Callable[[Connection], Any] = lambda connection: connection.execute(  # noqa: E731
        delete(store.values).where(store.values.c.version.in_(digests))
    )
    database.write(work)


def test_a_value_that_is_what_a_task_put_out_is_stored_once(database: Database) -> None:
    contents = Contents()
    _save(database, contents, _write(_VIEW))
    _save(database, contents, _value(_VIEW), _value(_VIEW, channel="same"))

    assert count(database, store.values) == 1
    assert _load(database, _value(_VIEW)) == _VIEW


def test_the_same_bytes_of_another_kind_are_another_content(database: Database) -> None:
    binary = _value(_VIEW)._replace(kind="bytes", digest=store.digest_of("bytes", _VIEW))
    _save(database, Contents(), _value(_VIEW), binary)

    assert count(database, store.values) == 2


def test_a_value_that_changes_a_little_is_a_difference_to_the_last(database: Database) -> None:
    contents = Contents()
    bodies = [_VIEW + b"more" * number for number in range(5)]
    for body in bodies:
        _save(database, contents, _value(body))

    assert sorted(_sizes(database))[-2] < 100
    assert [_load(database, _value(body)) for body in bodies] == bodies


def test_what_has_another_value_in_it_is_a_difference_to_that(database: Database) -> None:
    contents = Contents()
    sends = [b"send " + name + _VIEW + b" end" for name in (b"trend", b"breakout", b"volatility")]
    _save(database, contents, _value(b"input " + _VIEW, channel="__start__"))
    _save(database, contents, _write(_VIEW, "view"))
    _save(database, contents, *(_write(send, "__pregel_tasks") for send in sends))
    _save(database, contents, _value(b"all: " + b" and ".join(sends), "2", "__pregel_tasks"))

    assert sorted(_sizes(database))[-2] < 200
    assert _load(database, _write(sends[2])) == sends[2]
    assert _load(database, _value(b"all: " + b" and ".join(sends))) == b"all: " + b" and ".join(sends)


@pytest.mark.parametrize("short", [b"x" * 1_000, b""])
def test_what_is_short_is_whole(database: Database, short: bytes) -> None:
    contents = Contents()
    _save(database, contents, _value(short))
    _save(database, contents, _value(short + b"y"))

    assert set(_bases(database).values()) == {None}


def test_a_chain_has_an_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHAIN_MAX", 3)
    contents = Contents()
    for number in range(9):
        _save(database, contents, _value(_VIEW + b"%d" % number))

    assert list(_bases(database).values()).count(None) == 3


# What is not as it is believed to be.


def test_what_was_deleted_meanwhile_is_saved_again(database: Database) -> None:
    contents, first, second = Contents(), _value(_VIEW), _value(_VIEW + b"more", "2")
    _save(database, contents, first)
    _forget(database, first)
    _save(database, contents, second)  # its base is gone
    assert _load(database, second) == second.body

    _forget(database, second)
    _save(database, contents, second)  # it is remembered, and gone
    assert _load(database, second) == second.body


def test_what_was_undone_is_saved_again(database: Database) -> None:
    contents, first = Contents(), _value(_VIEW)

    def undone(connection: Connection) -> None:
        contents.save(connection, _PLACE, [first])
        raise KeyError("undone")

    with pytest.raises(KeyError):
        database.write(undone)
    _save(database, contents, _value(_VIEW + b"more", "2"))
    _save(database, contents, first)

    assert _load(database, first) == first.body
    assert _load(database, _value(_VIEW + b"more")) == _VIEW + b"more"


@pytest.mark.parametrize("grown", [b"", b"more"])
def test_what_is_damaged_is_mended_when_it_is_saved_anew(database: Database, grown: bytes) -> None:
    first, second = _value(_VIEW), _value(_VIEW + grown, "2")
    before = Contents()
    _save(database, before, first)
    _save(database, before, second)
    spoil = update(store.values).where(store.values.c.version == second.digest).values(body=b"spoilt")
    database.write(lambda connection: connection.execute(spoil))
    with pytest.raises(CheckpointDamaged):
        _load(database, second)

    after = Contents()  # of the process that goes on with an older checkpoint, and comes to the same value again
    _save(database, after, first)
    _save(database, after, second)
    assert _load(database, second) == second.body


def test_saving_whole_what_others_are_differences_to_leaves_them_right(database: Database) -> None:
    one, two, three = (_value(_VIEW + b"more" * number, str(number)) for number in range(3))
    before = Contents()
    for content in (one, two, three):
        _save(database, before, content)
    after = Contents()
    for content in (three, two, one):  # each is like the one before, which is a difference to it
        _save(database, after, content)

    assert [_load(database, each) for each in (one, two, three)] == [one.body, two.body, three.body]


# What is remembered.


def test_the_last_value_is_known_by_its_version() -> None:
    contents = Contents()
    with Database.open(":memory:") as database:
        _save(database, contents, _value(_VIEW, "7"), _write(_VIEW + b"write"))

    known = contents.last(_PLACE, "c", "7")
    assert known is not None
    assert known.body == _VIEW
    assert contents.last(_PLACE, "c", "6") is None
    assert contents.last(_PLACE, "other", "7") is None
    assert contents.last(("u", ""), "c", "7") is None


def test_the_threads_unused_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED_BYTES_MAX", 3 * len(_VIEW))
    contents = Contents()
    with Database.open(":memory:") as database:
        for thread in "abcab":
            for part in (_value(_VIEW), _write(_VIEW)):  # the same bytes count once
                database.write(
                    lambda connection, thread=thread, part=part: contents.save(connection, (thread, ""), [part])
                )
        database.write(lambda connection: contents.save(connection, ("d", ""), [_value(_VIEW)]))

    assert [thread for thread, _ in contents._known] == ["a", "b", "d"]
    assert contents._bytes == 3 * len(_VIEW)
