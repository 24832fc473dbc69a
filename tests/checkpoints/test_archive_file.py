"""Whatever a file holds: it is imported right, or refused with nothing imported."""

import asyncio
import json
from hashlib import sha256

import pytest
import zstandard
from hypothesis import HealthCheck, Phase, currently_in_test_context, event, given, settings
from hypothesis import strategies as st

from agents.clock import ReplayClock
from agents.errors import BadArchive
from checkpoints import imported
from checkpoints.archive import Archive, origin_of
from checkpoints.archive_file import pack, unpack
from checkpoints.events import Timeline, forget
from checkpoints.leases import runs
from checkpoints.upkeep import delete_thread
from tests.checkpoints.homes import Home
from tests.checkpoints.test_archive import Line, eventful, plain, tuples

OPTIONS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
RUN_ID = "trade-SIM-20130301T000000Z-1"


class World:
    """A home to import into, which is as it was after each example, and a file to begin with."""

    def __init__(self, folder):
        self.loop = asyncio.Runner()
        self.path = folder / "given.hold"
        source = Home(str(folder / "source.db"), folder, ReplayClock(1_000))
        self.loop.run(eventful(source))
        self.loop.run(self.archive(source).export(RUN_ID, folder / "whole.hold"))
        source.close()
        self.whole = (folder / "whole.hold").read_bytes()
        self.items = [(record.model_dump_json(), body) for record, body in unpack(self.whole)]
        self.home = Home(str(folder / "target.db"), folder / "target", ReplayClock(1_000))
        self.empty = self.home.tables()

    def archive(self, home):
        return Archive(home.database, home.saver, home.manager, home.folder, home.clock)

    def try_out(self, data):
        """Import it; what was taken must be what is in the file, and what was refused must not be here."""
        self.path.write_bytes(data)
        try:
            run = self.loop.run(self.archive(self.home).take(self.path))
        except BadArchive as error:
            why = str(error)
        else:
            tell("imported")
            try:
                self.check(run.run_id, data)
            finally:
                self.clear(run.run_id)
            return
        tell("refused")
        assert why.startswith(f"{self.path} ")
        assert self.home.tables() == self.empty

    def check(self, run_id, data):
        home, again = self.home, self.path.with_name("again.hold")
        self.loop.run(origin_of(home.database, run_id))
        self.loop.run(Timeline(home.database).entries(run_id))
        tuples(home, run_id)
        assert home.tables()["orders"] == home.tables()["fills"] == home.tables()["accounts"] == []
        again.unlink(missing_ok=True)
        self.loop.run(self.archive(home).export(run_id, again))
        assert self.told(again.read_bytes()) == self.told(data)

    def told(self, data):
        """What a file says; values that nothing refers to are left out of the next."""
        told = []
        for record, body in plain(unpack(data)):
            for name in ("fingerprint", "parameters", "detail"):
                if name in record:
                    record[name] = json.dumps(json.loads(record[name]), sort_keys=True)
            for name in ("account", "dry", "updated_ns") if record["record"] == "run" else ():
                del record[name]
            if record["record"] != "value":
                told.append(repr((sorted(record.items()), body)))
        return sorted(told)

    def clear(self, run_id):
        def work(connection):
            delete_thread(connection, run_id)
            forget(connection, run_id)
            imported.forget(connection, run_id)
            connection.execute(runs.delete())

        self.home.database.write(work)
        assert self.home.tables() == self.empty
        for report in (self.home.folder / "runs" / run_id).iterdir():
            report.unlink()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("archive"))
    yield world
    world.home.close()
    world.loop.close()


def tell(what):
    if currently_in_test_context():
        event(what)


def signed(content):
    """Content in a file that says that all is well."""
    packed = zstandard.compress(content)
    return b"holdfast-run 1 " + sha256(packed).hexdigest().encode() + b"\n" + packed


class TestWhatHappensOnTheWay:
    @settings(OPTIONS, max_examples=60)
    @given(data=st.data())
    def test_bytes_that_change_come_and_go(self, world, data):
        whole = world.whole
        at = data.draw(st.integers(0, len(whole) - 1))
        gone = data.draw(st.sampled_from([0, 1, 1, 2, 50, len(whole)]))
        came = data.draw(st.sampled_from([b"", b"\0", b"\xff", b"{", whole[:40], whole[at : at + 30]]))
        world.try_out(whole[:at] + came + whole[at + gone :])

    def test_the_whole_of_it_is_imported(self, world):
        world.try_out(world.whole)
        world.try_out(pack([(Line(line), body) for line, body in world.items]))


NASTY = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    1.5,
    1e308,
    "",
    "x",
    "\0",
    "../..",
    "x" * 70,
    "0" * 32,
    "NaN",
    "1e99",
    "{}",
    "[]",
    "null",
    "[" * 2_000,
    '{"a": Infinity}',
    "running",
    "bytes",
    "msgpack",
    "\u202e\x1b[31m",
    [],
    [[]],
    {},
    {"a": 1},
]


class TestWhatSomebodyMakesUp:
    @settings(OPTIONS, max_examples=150)
    @given(data=st.data())
    def test_fields_of_any_kind_and_records_in_any_order(self, world, data):
        items = [(json.loads(line), body) for line, body in world.items]
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(items) - 1))
            record, body = items[at]
            match data.draw(st.sampled_from(["field", "field", "field", "swap", "drop", "twice", "body"])):
                case "field":
                    name = data.draw(st.sampled_from(sorted(record)))
                    items[at] = (record | {name: data.draw(st.sampled_from(NASTY))}, body)
                case "swap":
                    other = data.draw(st.integers(0, len(items) - 1))
                    items[at], items[other] = items[other], items[at]
                case "drop":
                    del items[at]
                case "twice":
                    items.insert(at, items[at])
                case "body" if body:
                    where = data.draw(st.integers(0, len(body) - 1))
                    changed = body[:where] + data.draw(st.binary(max_size=4)) + body[where + 1 :]
                    items[at] = (record | ({"size": len(changed)} if "size" in record else {}), changed)
                case _:
                    pass
            if not items:
                break
        world.try_out(pack([(Line(json.dumps(record)), body) for record, body in items]))

    @settings(OPTIONS, max_examples=60)
    @given(data=st.data())
    def test_content_that_is_signed_and_wrong(self, world, data):
        content = b"".join(line.encode() + b"\n" + body for line, body in world.items)
        at = data.draw(st.integers(0, len(content) - 1))
        gone = data.draw(st.sampled_from([0, 1, 1, 1, 3, 100, len(content)]))
        came = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b"\n", b'"', b"9", b"0"])))
        world.try_out(signed(content[:at] + came + content[at + gone :]))

    @settings(OPTIONS, max_examples=20)
    @given(content=st.binary(max_size=200))
    def test_anything_at_all(self, world, content):
        world.try_out(signed(content))
        world.try_out(content)


def test_nothing_is_written_where_the_disk_is_full(tmp_path, monkeypatch):
    from checkpoints import archive_file

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive_file.os, "fsync", full)
    with pytest.raises(archive_file.StorageError, match="No space left on device"):
        archive_file.write_file(tmp_path / "run", b"x")
    assert list(tmp_path.iterdir()) == []


def test_similar_states_take_the_room_of_one():
    body = bytes(range(256)) * 400
    head = f'{{"record":"value","ns":"","channel":"","version":"","of":"","kind":"bytes","size":{len(body)}}}'
    one, many = (len(pack([(Line(head), b"%d" % at + body[1:]) for at in range(count)])) for count in (1, 50))
    assert many < 4 * one
