"""The marks of sessions: each is there after a crash, in its order, digit by digit."""

from decimal import Decimal

import pytest
from sqlalchemy import text

from agents.errors import CheckpointDamaged, LeaseLost, StorageError
from checkpoints.database import Database
from checkpoints.sessions import SessionBook, SessionMark, forget, last_mark


def mark(number):
    return SessionMark(number * 10, number, Decimal("1.10"), Decimal(f"100.{number:020}"), Decimal("-0.5"))


@pytest.fixture
def database(tmp_path):
    with Database.open(tmp_path / "holdfast.db") as database:
        yield database


async def test_marks_come_back_as_they_were_and_each_session_has_its_own(database):
    book = SessionBook(database)
    for number in range(1, 4):
        await book.add("a", mark(number))
    await book.add("b", mark(9))
    assert await book.marks("a") == tuple(map(mark, range(1, 4)))
    assert (await book.last("a"), await book.last("b"), await book.last("c")) == (mark(3), mark(9), None)
    assert database.read(lambda connection: last_mark(connection, "a")) == mark(3)
    assert str((await book.last("a")).price) == "1.10"


async def test_they_are_there_for_the_next_process(database, tmp_path):
    await SessionBook(database).add("a", mark(1))
    database.close()
    with Database.open(tmp_path / "holdfast.db") as again:
        assert await SessionBook(again).marks("a") == (mark(1),)


async def test_one_that_is_damaged_is_named(database):
    book = SessionBook(database)
    await book.add("a", mark(1))
    database.write(lambda connection: connection.execute(text("UPDATE session_marks SET equity = 'much'")))
    with pytest.raises((CheckpointDamaged, StorageError), match="mark of a session"):
        await book.marks("a")


async def test_a_fence_refuses_what_a_process_writes_that_has_lost_the_session(database):
    def fence(_connection, run_id):
        raise LeaseLost(run_id)

    with pytest.raises(LeaseLost):
        await SessionBook(database, fence).add("a", mark(1))
    assert await SessionBook(database).marks("a") == ()


async def test_marks_can_be_forgotten(database):
    book = SessionBook(database)
    for name in ("a", "b"):
        await book.add(name, mark(1))
    database.write(lambda connection: forget(connection, "a"))
    assert (await book.marks("a"), await book.marks("b")) == ((), (mark(1),))
