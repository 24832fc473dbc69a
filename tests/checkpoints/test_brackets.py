"""Brackets on disk: as they were, to the last digit; and none is left out silently."""

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import update

from agents.bracket import Bracket, Part
from agents.domain import Side
from agents.errors import StorageError
from checkpoints import brackets as module
from checkpoints.brackets import BracketBook
from checkpoints.database import Database
from tests.agents.test_bracket import fresh, news, opened, quote


@pytest.fixture
def database(address):
    with Database.open(address) as opened_:
        yield opened_


@pytest.fixture
def book(database):
    return BracketBook(database)


FULL, EXIT = opened(stop="95.00", target="1E+3", trail="0.0000000000000000000000000000000001").on_quote(quote("94"))
FULL = replace(FULL, best=Decimal("101.5"), heard_of=True, vain=2, decision=0)


class TestBook:
    async def test_what_was_saved_comes_back_as_it_was(self, book, database, address):
        others = [replace(fresh(), run_id="run-2", decision=3), replace(fresh(Side.SELL, "105", None), run_id="run-3")]
        await book.save([FULL, *others])
        database.close()
        with Database.open(address) as again:
            found = await BracketBook(again).load()
        assert found == (FULL, *others)
        assert [str(found[0].stop), str(found[0].target), found[0].exit] == ["95.00", "1E+3", EXIT]

    def test_every_field_of_it_is_set_in_what_is_tried(self):
        empty = [name for name in Bracket.__slots__ if name != "decision" and getattr(FULL, name) in (None, "", (), 0)]
        assert empty == []
        assert FULL.parts == (Part("entry", Side.BUY, Decimal(10), over=True),)

    async def test_the_newest_state_counts_and_one_that_is_closed_is_kept_too(self, book):
        await book.save([fresh()])
        await book.save([opened()])
        assert await book.load() == (opened(),)
        saved, intent = opened().on_quote(quote("94"))
        closed = saved.heard(news(intent), 0)
        await book.save([closed])
        assert (closed.closed, await book.load()) == (True, (closed,))

    async def test_one_that_is_forgotten_is_gone_and_no_other(self, book):
        await book.save([fresh(), replace(fresh(), decision=1), replace(fresh(), run_id="run-2")])
        await book.forget("run-1", 1)
        await book.forget("run-1", 7)
        assert [(each.run_id, each.decision) for each in await book.load()] == [("run-1", 0), ("run-2", 0)]

    @pytest.mark.parametrize(
        "body",
        ["", "[]", "{}", "null", '{"parts": [], "exit": null, "side": "buy"}', "\u00e9"],
    )
    async def test_one_that_cannot_be_read_is_named_and_none_is_given(self, book, database, body):
        await book.save([fresh(), replace(fresh(), run_id="run-2")])
        broken = update(module._brackets).where(module._brackets.c.run_id == "run-2").values(body=body)
        await database.awrite(lambda connection: connection.execute(broken))
        with pytest.raises(StorageError, match="the bracket of run run-2, decision 0, cannot be read") as error:
            await book.load()
        assert "\n" not in str(error.value)

    async def test_an_exit_that_was_changed_is_seen_by_its_id(self, book, database):
        saved, _ = opened().on_quote(quote("94"))
        await book.save([saved])

        def change(connection):
            body = connection.exec_driver_sql("SELECT body FROM brackets").scalar()
            connection.execute(
                update(module._brackets).values(body=body.replace('"quantity": "10"', '"quantity": "99"'))
            )

        await database.awrite(change)
        with pytest.raises(StorageError, match="does not follow from the order"):
            await book.load()

    async def test_a_database_that_fails_says_so(self, book, database):
        database.close()
        with pytest.raises(StorageError):
            await book.save([fresh()])
