"""Export and import: a run comes back whole, has no effect where it comes to, and nothing else gets in."""

import json
import operator
import stat
from dataclasses import replace
from decimal import Decimal
from itertools import count
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from sqlalchemy import update

from agents.clock import ReplayClock
from agents.domain import Check, OrderStatus
from agents.errors import BadArchive, CheckpointDamaged, CheckpointNotFound, InputError, StorageError
from checkpoints import store
from checkpoints.archive import Archive, origin_of
from checkpoints.archive_file import pack, unpack
from checkpoints.events import Entry, Timeline
from checkpoints.leases import runs
from checkpoints.ledger import BrokerReport
from checkpoints.runs import RunStatus
from checkpoints.store import CheckpointRow, ValueRow
from tests.checkpoints.homes import Home
from tests.checkpoints.test_ledger import allow, deny, filled, intent


@pytest.fixture(params=["sqlite", "postgres"])
def new_home(request, tmp_path):
    """Make homes, each with a database and a folder of its own."""
    opened, numbers = [], count()

    def make():
        folder = tmp_path / f"home-{next(numbers)}"
        folder.mkdir()
        sqlite = request.param == "sqlite"
        address = str(folder / "test.db") if sqlite else request.getfixturevalue("server").fresh()
        opened.append(Home(address, folder, ReplayClock(1_000)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def source(new_home):
    return new_home()


@pytest.fixture
def target(new_home):
    return new_home()


def archive(home):
    return Archive(home.database, home.saver, home.manager, home.folder, home.clock)


async def exported(home, run_id, name="run.hold"):
    path = home.folder / name
    await archive(home).export(run_id, path)
    return path


def records(path):
    return list(unpack(path.read_bytes()))


def plain(items):
    return [(json.loads(record.model_dump_json()), body) for record, body in items]


def tuples(home, run_id):
    """Every checkpoint with its values and writes, as LangGraph gets them."""
    return [
        each._replace(metadata=dict(each.metadata)) for each in home.saver.list({"configurable": {"thread_id": run_id}})
    ]


async def eventful(home):
    """A run with a bit of everything, that failed."""
    await home.ledger.open_account("paper", Decimal(1_000))
    async with home.beginning(account="paper") as hold:
        run_id = hold.run.run_id
        await home.play(run_id, {"notes": ["begun"], "text": ""})
        orders = [intent(run_id, leg=leg, quantity="2.50", **more) for leg, more in LEGS.items()]
        for order, review in zip(orders, (allow, odd, allow, allow), strict=True):
            await home.ledger.reserve(order, review)
        await in_vain(home.ledger, orders[3])
        for order in (orders[0], orders[2]):
            await home.ledger.mark_sending(order.intent_id)
        fill = filled(orders[0])
        zero = replace(fill.fills[0], fee=Decimal("0E-8"))
        await home.ledger.record(orders[0].intent_id, replace(fill, fills=(zero,)))
        await home.ledger.record(orders[2].intent_id, BrokerReport(OrderStatus.UNKNOWN, reason="no\nanswer"))
        detail = {"open_seconds": float("inf"), "said": "\ud800 \x00", "many": [1, {"a": None}]}
        await Timeline(home.database).append([Entry(run_id, 5, "RunStarted"), Entry(run_id, 6, "Odd", "trend", detail)])
        (hold.folder / "report.md").write_text("# bought", encoding="utf-8")
        (hold.folder / "report.json").write_bytes(b'{"a": "\xff"}')
        (hold.folder / "notes.txt").write_text("mine")
        return await home.manager.mark(hold, RunStatus.FAILED, "it\nfailed")


LEGS = {
    "entry": {},
    "second": {"limit_price": Decimal("1E+2")},
    "third": {},
    "stop": {"stop_price": Decimal("9E+1"), "limit_price": Decimal("89.50")},
}


async def in_vain(ledger, order):
    """It never reached the broker; the next attempt was cancelled."""
    for each, status in ((order, OrderStatus.NOT_PLACED), (order.next_attempt(), OrderStatus.CANCELLED)):
        await ledger.reserve(each, allow)
        await ledger.mark_sending(each.intent_id)
        await ledger.record(each.intent_id, BrokerReport(status))


def odd(account):
    return (*deny(account), Check("nan", passed=True, value=float("nan"), limit=float("-inf"), reason=""))


class TestThereAndBack:
    async def test_a_run_comes_back_whole(self, source, target):
        run = await eventful(source)
        target.clock.advance_to(9_000)
        taken = await archive(target).take(await exported(source, run.run_id))
        kept = {"status": RunStatus.IMPORTED, "account": run.run_id, "dry": True, "updated_ns": 9_000}
        assert taken == replace(run, **kept) == await target.manager.run(run.run_id)
        assert tuples(target, run.run_id) == tuples(source, run.run_id) != []
        assert await target.rows(run.run_id) == await source.rows(run.run_id)
        was, orders = await origin_of(target.database, run.run_id)
        there = await source.ledger.orders(run.run_id)
        assert was == "failed"
        assert [replace(each, checks=()) for each in orders] == [replace(each, checks=()) for each in there]
        assert repr([each.checks for each in orders]) == repr([each.checks for each in there])
        statuses = ["filled", "denied", "unknown", "not_placed", "cancelled"]
        assert [order.status for order in orders] == statuses
        assert [order.intent.attempt for order in orders] == [1, 1, 1, 1, 2]
        entries = [repr(await Timeline(home.database).entries(run.run_id)) for home in (source, target)]
        assert entries[0] == entries[1]
        folder = target.folder / "runs" / run.run_id
        found = {each.name: each.read_bytes() for each in folder.iterdir()}
        assert found == {"report.md": b"# bought", "report.json": b'{"a": "\xff"}'}

    async def test_what_was_imported_is_exported_alike(self, source, target, new_home):
        run = await eventful(source)
        first = await exported(source, run.run_id)
        await archive(target).take(first)
        second = await exported(target, run.run_id)
        changed = {"account": run.run_id, "dry": True}
        was, now = (plain(records(path)) for path in (first, second))
        assert now == [(each | changed if each["record"] == "run" else each, body) for each, body in was]
        third = new_home()
        assert (await archive(third).take(second)).run_id == run.run_id
        assert await origin_of(third.database, run.run_id) is not None

    async def test_the_differences_are_small_on_both_sides(self, source, target):
        run = await source.played()
        path = await exported(source, run.run_id)
        await archive(target).take(path)
        sizes = [(await home.manager.size(run.run_id))[1] for home in (source, target)]
        assert sizes[1] < 1.5 * sizes[0]
        assert path.stat().st_size < 6_000, "and what it holds is four times as long"

    @pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED, RunStatus.STOPPED])
    async def test_however_it_stood(self, source, target, status):
        run = await source.played(status=status)
        await archive(target).take(await exported(source, run.run_id))
        assert await origin_of(target.database, run.run_id) == (str(status), ())

    async def test_while_it_runs_and_after_it_died(self, source, new_home):
        async with source.beginning() as hold:
            await source.play(hold.run.run_id, {"notes": [], "text": ""})
            running = await exported(source, hold.run.run_id, "running")
        dead = await exported(source, hold.run.run_id, "dead")
        for path, status in ((running, "running"), (dead, "interrupted")):
            home = new_home()
            run = await archive(home).take(path)
            assert (await origin_of(home.database, run.run_id))[0] == status
            assert (run.status, run.owner, await home.manager.held_runs()) == (RunStatus.IMPORTED, "", frozenset())

    async def test_before_anything_was_saved(self, source, target):
        async with source.beginning() as hold:
            pass
        run = await archive(target).take(await exported(source, hold.run.run_id))
        assert await target.rows(run.run_id) == []

    async def test_a_fork(self, source, target):
        origin = await source.played()
        fork = await source.forked((await source.rows(origin.run_id))[2].checkpoint_id)
        taken = await archive(target).take(await exported(source, fork.run_id))
        assert (taken.forked_from, taken.forked_at) == (fork.forked_from, fork.forked_at)
        assert await target.rows(fork.run_id) == await source.rows(fork.run_id)

    async def test_a_fork_that_comes_before_what_it_came_from(self, source, target):
        """Its copies are saved first here, and their ids are still those of the run which saved them."""
        origin = await source.played()
        saved = await source.rows(origin.run_id)
        fork = await source.forked(saved[2].checkpoint_id)
        for run in (fork, origin):
            await archive(target).take(await exported(source, run.run_id, run.run_id))
        for row in saved:
            assert (await target.manager.locate(row.checkpoint_id)).run.run_id == origin.run_id

    async def test_subgraphs_and_channels_that_are_rebuilt(self, source, target):
        class Inner(TypedDict):
            items: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *(each for some in new for each in some)])]
            count: Annotated[int, operator.add]

        def step(state: Inner) -> Any:
            return {"items": [f"{state['count']} " * 1_000], "count": 1}

        inner: Any = StateGraph(Inner)
        inner.add_node("a", step)
        inner.add_node("b", step)
        inner.add_edge(START, "a")
        inner.add_edge("a", "b")
        outer: Any = StateGraph(Inner)
        outer.add_node("inside", inner.compile(checkpointer=True))
        outer.add_node("after", step)
        outer.add_edge(START, "inside")
        outer.add_edge("inside", "after")
        outer.add_edge("after", END)
        async with source.beginning() as hold:
            config = {"configurable": {"thread_id": hold.run.run_id}}
            graph = outer.compile(checkpointer=source.saver)
            await graph.ainvoke({"items": [], "count": 0}, config, durability="sync")
        await archive(target).take(await exported(source, hold.run.run_id))
        assert len({each.config["configurable"]["checkpoint_ns"] for each in tuples(target, hold.run.run_id)}) > 1
        assert tuples(target, hold.run.run_id) == tuples(source, hold.run.run_id)
        copy = outer.compile(checkpointer=target.saver)
        assert (await copy.aget_state(config)).values == (await graph.aget_state(config)).values

    async def test_values_of_the_first_version(self, source, target):
        """They are named by channel and version, and so are those that they are differences to."""
        async with source.beginning() as hold:
            run_id = hold.run.run_id
        checkpoint = {"v": 4, "id": "1f0", "ts": "", "channel_versions": {"x": "2"}, "versions_seen": {}}
        kind, body = source.saver.serde.dumps_typed((checkpoint, {}, ["x"], {"step": 1}))
        value = source.saver.serde.dumps_typed("a value" * 200)

        def save(connection):
            store.save_checkpoint(connection, CheckpointRow(run_id, "", "1f0", None, None, kind, body))
            store.save_values(connection, [ValueRow(run_id, "", "x", "2", None, 0, *value)])

        source.database.write(save)
        await archive(target).take(await exported(source, run_id))
        assert tuples(target, run_id)[0].checkpoint["channel_values"] == {"x": "a value" * 200}


class TestNoEffect:
    """What was imported is to be looked at."""

    async def test_its_orders_are_nobodys_positions_and_are_never_sent(self, source, target):
        run = await eventful(source)
        await target.ledger.open_account("paper", Decimal(777))
        own = await target.played("OWN")
        before = target.tables()
        await archive(target).take(await exported(source, run.run_id))
        after = target.tables()
        changed = {name for name in before if before[name] != after[name]}
        saved = {"saved_checkpoints", "saved_values", "saved_writes"}
        assert changed == {"runs", "imported_runs", "timeline"} | saved
        assert await target.ledger.executed() == {}
        assert await target.ledger.unsettled() == await target.ledger.orders(run.run_id) == ()
        assert (await target.ledger.portfolio("paper")).cash == 777
        assert await target.manager.runs() == (own, await target.manager.run(run.run_id))

    async def test_it_cannot_be_resumed_and_can_be_forked(self, source, target):
        run = await eventful(source)
        await archive(target).take(await exported(source, run.run_id))
        with pytest.raises(InputError, match=r"was imported, and whoever it came from .* by --fork"):
            async with target.manager.claim(run.run_id):
                pass
        fork = await target.forked((await target.rows(run.run_id))[1].checkpoint_id)
        assert (fork.run_id, fork.account, fork.forked_from) == (
            run.run_id.removesuffix("1") + "2",
            fork.run_id,
            run.run_id,
        )
        assert (await target.state(fork.run_id)).values == (await source.state(run.run_id)).values

    async def test_the_ids_go_on_after_it(self, source, target):
        for _ in range(3):
            run = await source.played()
        await archive(target).take(await exported(source, run.run_id))
        assert (await target.played()).run_id.endswith("-4")


class TestFiles:
    async def test_for_the_owner_alone_and_in_one_piece(self, source):
        run = await source.played()
        path = await exported(source, run.run_id)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [each.name for each in source.folder.iterdir() if "hold" in each.name] == ["run.hold"]

    async def test_nothing_is_overwritten(self, source, tmp_path):
        run = await source.played()
        (tmp_path / "there").write_text("precious")
        (tmp_path / "link").symlink_to("nowhere")
        for path in (tmp_path / "there", tmp_path / "link", tmp_path, tmp_path / "no" / "where"):
            with pytest.raises(StorageError, match=r"cannot be written \(.*; nothing was exported"):
                await archive(source).export(run.run_id, path)
        assert (tmp_path / "there").read_text() == "precious"
        assert not (tmp_path / "nowhere").exists()

    async def test_what_is_not_there_or_not_whole_is_not_exported(self, source, tmp_path):
        run, path = await source.played(), tmp_path / "run"
        with pytest.raises(CheckpointNotFound):
            await archive(source).export("nobody", path)
        source.database.write(lambda all_: all_.execute(store.values.delete()))
        with pytest.raises(CheckpointDamaged, match="is missing"):
            await archive(source).export(run.run_id, path)
        source.database.write(lambda all_: all_.execute(update(runs).values(status=RunStatus.PRUNED)))
        with pytest.raises(CheckpointNotFound, match="nothing is left to export"):
            await archive(source).export(run.run_id, path)
        source.database.write(lambda all_: all_.execute(update(runs).values(status=RunStatus.FAILED)))
        source.database.write(lambda all_: all_.execute(update(store.checkpoints).values(body=b"spoilt")))
        with pytest.raises(CheckpointDamaged):
            await archive(source).export(run.run_id, path)
        assert not path.exists()

    async def test_what_is_too_large_for_a_file(self, source, tmp_path, monkeypatch):
        run = await source.played()
        monkeypatch.setattr("checkpoints.archive_file.CONTENT_BYTES_MAX", 1_000)
        with pytest.raises(StorageError, match=r"a file may hold 1,000 .* nothing was exported"):
            await archive(source).export(run.run_id, tmp_path / "run")
        monkeypatch.undo()
        source.database.write(lambda all_: all_.execute(update(store.writes).values(task_path="x" * 20_000)))
        with pytest.raises(StorageError):
            await archive(source).export(run.run_id, tmp_path / "run")
        assert not (tmp_path / "run").exists()


UNFIT = [
    ("run", {"run_id": "../../etc/passwd"}),
    ("run", {"run_id": "trade-SIM-20130301T000000Z-1/.."}),
    ("run", {"run_id": "another"}),
    ("run", {"run_id": "trade-SIM-20130301T000000Z-9999999999"}),
    ("run", {"run_id": "trade-SIM-20130301T000000Z-0"}),
    ("run", {"workflow": "../x"}),
    ("run", {"symbol": "two words"}),
    ("run", {"symbol": 5}),
    ("run", {"as_of_ns": -1}),
    ("run", {"as_of_ns": 2**63}),
    ("run", {"as_of_ns": 1.5}),
    ("run", {"status": "imported"}),
    ("run", {"status": "pruned"}),
    ("run", {"fingerprint": "[]"}),
    ("run", {"parameters": "{"}),
    ("run", {"parameters": "[" * 100_000}),
    ("run", {"parameters": '{"a": ' + "9" * 5_000 + "}"}),
    ("run", {"error": "\0"}),
    ("run", {"error": None}),
    ("run", {"forked_from": "trade-SIM-20130301T000000Z-1", "forked_at": None}),
    ("run", {"dry": 0}),
    ("run", {"owner": "me"}),
    ("checkpoint", {"checkpoint_id": "x"}),
    ("checkpoint", {"checkpoint_id": "a/b"}),
    ("checkpoint", {"kind": "json"}),
    ("checkpoint", {"kind": "pickle"}),
    ("checkpoint", {"kind": "zstd:msgpack"}),
    ("checkpoint", {"kind": "null"}),
    ("checkpoint", {"kind": "bytes"}),
    ("value", {"kind": "bytes"}),
    ("value", {"kind": "zstd:msgpack"}),
    ("value", {"version": "0" * 32}),
    ("value", {"ns": "elsewhere"}),
    ("value", {"channel": "x", "version": "1"}),
    ("write", {"checkpoint_id": "of-nothing"}),
    ("write", {"ns": "elsewhere"}),
    ("write", {"idx": 2**40}),
    ("write", {"task_id": 1}),
    ("write", {"value": "0" * 32}),
    ("write", {"kind": "ref:msgpack"}),
    ("entry", {"time_ns": "now"}),
    ("entry", {"detail": "5"}),
    ("entry", {"detail": '{"a":'}),
    ("entry", {"subject": "x" * 65}),
    ("order", {"quantity": "NaN"}),
    ("order", {"quantity": "1e999999"}),
    ("order", {"quantity": "-1"}),
    ("order", {"quantity": "3"}),
    ("order", {"side": "sell"}),
    ("order", {"symbol": "\n"}),
    ("order", {"status": "sent"}),
    ("order", {"intent_id": "hf-of-another"}),
    ("order", {"checks": [{"name": 1}]}),
    ("order", {"fills": [{}]}),
    ("order", {"leg": ""}),
    ("report", {"name": "../../.bashrc"}),
    ("report", {"name": "notes.txt"}),
    ("report", {"size": -1}),
    ("report", {"size": 2**60}),
]
"""Fields of the first record of a kind, one of which such a record cannot have."""


class TestRefusals:
    """One line, with the file's name, and nothing is imported."""

    @pytest.fixture
    async def given(self, source):
        run = await eventful(source)
        return records(await exported(source, run.run_id))

    @pytest.fixture
    def refused(self, target):
        before = target.tables()
        path = target.folder / "given.hold"

        async def refused(data, says="", what=""):
            if data is not None:
                path.write_bytes(data)
            try:
                await archive(target).take(path)
            except BadArchive as error:
                message = str(error)
            else:
                pytest.fail(f"this was imported: {what!r:.200}")
            assert message.startswith(f"{path} "), message
            assert "; nothing was imported; " in message
            assert says in message
            assert target.tables() == before
            assert not (target.folder / "runs").exists()

        return refused

    async def test_what_is_no_such_file(self, refused, target, given):
        whole = pack(given)
        await refused(None, "is not there")
        await refused(b"", "is no run that was exported")
        await refused(b"%PDF-1.4 " * 100, "is no run that was exported")
        await refused(whole.replace(b"holdfast-run 1 ", b"holdfast-run 2 ", 1), "has format 2, and this program reads")
        path = target.folder / "given.hold"
        path.unlink()
        path.mkdir()
        await refused(None, "is no file")

    async def test_damaged_and_cut_off(self, refused, given):
        whole = pack(given)
        for cut in (100, len(whole) // 2, len(whole) - 1):
            await refused(whole[:cut], "is damaged or cut off")
        for at in range(100, len(whole), len(whole) // 7):
            await refused(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "is damaged or cut off")

    async def test_one_that_is_here_already(self, target, given):
        path = target.folder / "given.hold"
        path.write_bytes(pack(given))
        run = await archive(target).take(path)
        before = target.tables()
        with pytest.raises(BadArchive, match=r"a run of that name is here already; nothing .* --home FOLDER"):
            await archive(target).take(path)
        target.database.write(lambda all_: all_.execute(update(runs).values(status=RunStatus.PRUNED)))
        with pytest.raises(BadArchive, match="is here already"):
            await archive(target).take(path)
        target.database.write(lambda all_: all_.execute(runs.delete()))
        with pytest.raises(BadArchive, match="is here already"):  # what was saved of it, without its row
            await archive(target).take(path)
        assert {name for name, rows in target.tables().items() if rows != before[name]} == {"runs"}
        assert (await target.manager.size(run.run_id))[0] == 5

    async def test_records_that_do_not_fit(self, refused, given):
        for kind, change in UNFIT:
            at = next(at for at, (record, _) in enumerate(given) if record.record == kind)
            record, body = given[at]
            await refused(pack([*given[:at], (forged(record, **change), body), *given[at + 1 :]]), what=change)

    async def test_what_would_be_more_than_data_is_not_even_looked_at(self, refused, given):
        at = next(at for at, (record, _) in enumerate(given) if record.record == "checkpoint")
        constructor = {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain_core", "messages", "HumanMessage"],
            "kwargs": {},
        }
        for kind, body in (("json", json.dumps(constructor).encode()), ("pickle", b"cos\nsystem\n(S'id'\ntR.")):
            record = forged(given[at][0], kind=kind, size=len(body))
            await refused(pack([*given[:at], (record, body), *given[at + 1 :]]), "does not fit (checkpoint.kind: ")

    async def test_a_record_twice(self, refused, given):
        for kind in ("run", "checkpoint", "value", "write", "order", "report"):
            again = next(item for item in given if item[0].record == kind)
            await refused(pack([*given, again]), what=kind)

    async def test_a_value_under_anothers_name_that_no_state_names(self, refused, given):
        """A state that came to that content later would be kept without it, and could not be read."""
        at = next(at for at, (record, _) in enumerate(given) if record.record == "value")
        record = forged(given[at][0], version="0" * 32)
        await refused(pack([*given[: at + 1], (record, given[at][1]), *given[at + 1 :]]), "not what its name says")

    async def test_a_record_too_few(self, refused, given):
        for kind in ("run", "checkpoint", "value"):
            at = next(at for at, (record, _) in enumerate(given) if record.record == kind)
            await refused(pack([*given[:at], *given[at + 1 :]]), what=kind)

    async def test_records_out_of_order(self, refused, given):
        await refused(pack([given[1], given[0], *given[2:]]), "does not begin with one run")
        await refused(pack([given[0], given[2], given[1], *given[3:]]), "before its parent")
        await refused(pack([]), "does not begin with one run")

    async def test_states_that_nobody_can_read(self, refused, given, source):
        def others(content):
            return [source.saver.serde.dumps_typed(content)[1], b"\xc1 no msgpack", b"", b"\x91" * 5_000]

        at = next(at for at, (record, _) in enumerate(given) if record.record == "checkpoint")
        for body in others(({"id": "another"}, {}, {}, {})):
            record = forged(given[at][0], size=len(body))
            await refused(pack([*given[:at], (record, body), *given[at + 1 :]]), "has states that cannot be read")

    async def test_a_bomb_is_not_set_off(self, refused, given, monkeypatch):
        """A megabyte of nothing is a hundred bytes long: what is read is counted while it is read."""
        head = '{"record":"value","ns":"","channel":"","version":"","of":"","kind":"bytes","size":%d}'
        items = (
            ([("0" * 2**21, b"")], "has one of more than 65,536 bytes"),
            ([(head % (2**20 + 1), b"\0" * (2**20 + 1))], "holds more than 1,048,576 bytes"),
            ([(given[0][0].model_dump_json(), b""), *[(head % 2**18, b"\0" * 2**18)] * 5], "holds more than 1,048,576"),
            ([(head % 2**18, b"\0" * 5)], "is cut off in the middle of a record"),
            ([(head % 2**60, b"\0" * 5)], "has a record that does not fit"),
        )
        packed = [(pack([(Line(line), body) for line, body in some]), says) for some, says in items]
        monkeypatch.setattr("checkpoints.archive_file.CONTENT_BYTES_MAX", 2**20)
        monkeypatch.setattr("checkpoints.archive_file._LINE_MAX", 2**16)
        for data, says in packed:
            assert len(data) < 2_000
            await refused(data, says)
        monkeypatch.setattr("checkpoints.archive_file._FILE_BYTES_MAX", 100)
        await refused(packed[0][0], "is longer than 100 bytes")

    async def test_what_is_wrong_with_the_database_is_told_as_such(self, target, given, monkeypatch):
        def full(*_):
            raise StorageError("the disk is full")

        path = target.folder / "given.hold"
        path.write_bytes(pack(given))
        monkeypatch.setattr("checkpoints.history.History.verify", full)
        before = target.tables()
        with pytest.raises(StorageError, match=r"^the disk is full$"):
            await archive(target).take(path)
        assert target.tables() == before


class Line:
    """A record as nobody checked it."""

    def __init__(self, line):
        self.line = line

    def model_dump_json(self):
        return self.line


def forged(record, **change):
    """A record with other fields than such a record can have."""
    return Line(json.dumps(json.loads(record.model_dump_json()) | change))
