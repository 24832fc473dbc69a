"""The timeline: what was appended comes back in that order, whatever was in it."""

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from checkpoints.database import Database
from checkpoints.events import Entry, Timeline, forget, size_of


@pytest.fixture
def database(address):
    with Database.open(address) as opened:
        yield opened


@pytest.fixture
def timeline(database):
    return Timeline(database)


async def test_entries_come_back_by_run_in_the_order_of_appending(timeline):
    one = [Entry("a", 3, "RunStarted"), Entry("a", 1, "AttemptStarted", "trend", {"attempt": 1})]
    await timeline.append([one[0], Entry("b", 2, "RunStarted"), one[1]])
    last = Entry("a", 0, "RunFinished", detail={"error": ""})
    await timeline.append([last])
    assert await timeline.entries("a") == (*one, last)
    assert await timeline.entries("b") == (Entry("b", 2, "RunStarted"),)
    assert await timeline.entries("nobody") == ()


async def test_nothing_to_append_is_no_transaction(timeline, database):
    database.close()
    await timeline.append([])


async def test_appends_at_once_lose_nothing(timeline):
    batches = [[Entry("a", number, "k", str(number)), Entry("a", number, "l")] for number in range(50)]
    await asyncio.gather(*(timeline.append(batch) for batch in batches))
    entries = await timeline.entries("a")
    assert sorted(entry.time_ns for entry in entries) == sorted([*range(50)] * 2)
    assert [entry.kind for entry in entries] == ["k", "l"] * 50, "a batch stays together"


async def test_a_subject_with_an_endless_name_is_cut(timeline):
    await timeline.append([Entry("a", 1, "AttemptStarted", "x" * 200)])
    assert (await timeline.entries("a"))[0].subject == "x" * 64


async def test_details_that_json_does_not_know_become_text(timeline):
    await timeline.append(
        [Entry("a", 1, "k", detail={"amount": Decimal("1.5"), "path": Path("x"), "text": "[red]\n|"})]
    )
    assert (await timeline.entries("a"))[0].detail == {"amount": "1.5", "path": "x", "text": "[red]\n|"}


async def test_one_run_is_forgotten_and_the_others_are_not(timeline, database):
    await timeline.append([Entry("a", 1, "k", detail={"text": "x" * 100}), Entry("b", 1, "k")])
    sizes = database.read(lambda connection: [size_of(connection, run_id) for run_id in ("a", "b", "nobody")])
    assert sizes == [len('{"text": ""}') + 100, 2, 0]
    database.write(lambda connection: forget(connection, "a"))
    assert await timeline.entries("a") == ()
    assert len(await timeline.entries("b")) == 1
