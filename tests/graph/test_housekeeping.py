"""Looking at runs and keeping house: what is told of a run, what is pruned, and runs from elsewhere."""

import json

import pytest

from agents.clock import ReplayClock
from agents.domain import Finding, OrderStatus, TradingState
from agents.errors import CheckpointNotFound, ConfigError, InputError
from checkpoints.archive_file import unpack
from checkpoints.runs import RunStatus
from graph.app import open_app
from graph.housekeeping import age_ns, export_run, import_run, prune_runs, show_run
from graph.runner import Market, Runner

pytestmark = pytest.mark.usefixtures("no_waiting")

HOUR_NS = 3_600_000_000_000
HOOKS: list = []


def bull(view):
    for hook in HOOKS:
        hook()
    return Finding("bull", 0.8, 0.9, "up")


@pytest.fixture(autouse=True)
def _clean():
    HOOKS.clear()


@pytest.fixture
async def new_app(settings):
    opened = []

    async def make(clock=None, **flags):
        ours = {"required": ("tests.graph.test_housekeeping:bull",), "optional": (), "gate": {"mean_r_min": -100.0}}
        opened.append(open_app(settings(**(ours | flags)), clock=clock))
        return await opened[-1].__aenter__()

    yield make
    for each in opened:
        await each.__aexit__(None, None, None)


async def decide(app, symbol="SIM"):
    (result,) = await Runner(app).start_all(Market((symbol,), {}, 7))
    return result


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1_800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("0d", 0)]
)
def test_an_age(text, seconds):
    assert age_ns(text) == seconds * 10**9


@pytest.mark.parametrize("text", ["7", "", "d", "7D", "-7d", "1.5h", "7 d", "7d ", "7y", "9999999d", "٣d"])
def test_no_age(text):
    with pytest.raises(ConfigError, match=r"is no age; nothing was pruned; give a number with its unit"):
        age_ns(text)


class TestShow:
    async def test_a_finished_run(self, new_app, tmp_path):
        app = await new_app()
        result = await decide(app)
        told = await show_run(app, result.run.run_id)
        assert told.data == json.loads(json.dumps(told.data, allow_nan=False))
        assert (told.data["status"], told.data["checkpoints"], told.data["owner"]) == ("finished", 8, None)
        assert told.data["bytes"] > 1_000
        assert told.data["orders"] == result.as_json()["orders"]
        assert told.data["changed_settings"] == {
            "gate.mean_r_min": -100.0,
            "optional": [],
            "required": ["tests.graph.test_housekeeping:bull"],
        }
        assert told.data["resume_command"] is told.data["fork_command"] is None
        text = "\n".join(told.lines)
        for part in (
            "Run       trade-SIM-20260101T000000Z-1 (finished)",
            "Bars      of the simulated market of seed 7",
            "gate.mean_r_min -100.0",
            "Saved     8 checkpoints, ",
            f"{result.orders[0].client_order_id} buy {result.quantity:f} SIM filled at ",
            f"--checkpoints {result.run.run_id} --home {tmp_path / 'home'}",
        ):
            assert part in text

    async def test_one_that_failed_says_why_and_how_to_go_on(self, new_app):
        def fail():
            raise ValueError("no\ndata \x1b[31m")

        app = await new_app()
        HOOKS.append(fail)
        result = await decide(app)
        told = await show_run(app, result.run.run_id)
        assert all(line.isprintable() for line in told.lines)
        assert f"--resume {result.run.run_id}" in told.data["resume_command"]
        assert f"--fork {result.run.run_id}" in told.data["fork_command"]
        assert [line.split()[0] for line in told.lines][-4:] == ["Error", "Resume", "Fork", "States"]

    async def test_who_holds_it_and_until_when(self, new_app):
        clock = ReplayClock(HOUR_NS)
        app, other = await new_app(clock), await new_app(clock)
        result = await decide(app)
        async with app.manager.claim(result.run.run_id) as hold:
            await app.manager.mark(hold, RunStatus.RUNNING)
            told = await show_run(other, result.run.run_id)
        assert (told.data["status"], told.data["leased_until_ns"]) == ("running", HOUR_NS + 10 * 10**9)
        assert told.data["owner"].rpartition(":")[2].isdigit()
        assert f"Held      by {told.data['owner']} until 1970-01-01T01:00:10+00:00" in "\n".join(told.lines)
        assert (told.data["resume_command"], told.data["fork_command"] is None) == (None, False)
        after = await show_run(other, result.run.run_id)
        assert (after.data["status"], after.data["owner"]) == ("interrupted", None)

    async def test_it_is_not_touched(self, new_app):
        app = await new_app()
        HOOKS.append(lambda: 1 // 0)
        run = (await decide(app)).run
        before = await app.timeline.entries(run.run_id)
        for _ in range(2):
            await show_run(app, run.run_id)
        assert await app.manager.run(run.run_id) == run
        assert await app.timeline.entries(run.run_id) == before

    async def test_a_fork_and_what_it_changed(self, new_app):
        app = await new_app()
        first = await decide(app)
        fork = await Runner(app).fork(first.checkpoints[4].checkpoint_id, changes={"strategy": {"weight_max": 0.01}})
        told = await show_run(app, fork.run.run_id)
        assert (told.data["forked_from"], told.data["forked_at"], told.data["dry"]) == (
            first.run.run_id,
            first.checkpoints[4].checkpoint_id,
            True,
        )
        assert told.data["changed_settings"]["strategy.weight_max"] == 0.01
        assert told.lines[1:3] == [
            f"Forked    from {first.run.run_id} at {first.checkpoints[4].checkpoint_id}",
            "Dry       it can place no order",
        ]

    async def test_nobody(self, new_app):
        app = await new_app()
        with pytest.raises(CheckpointNotFound):
            await show_run(app, "nobody")


class TestPrune:
    async def test_what_goes_and_what_stays(self, new_app, tmp_path):
        clock = ReplayClock(HOUR_NS)
        app = await new_app(clock)
        done = [(await decide(app, symbol)).run for symbol in "ABCDEFG"]
        runner = Runner(app)
        HOOKS.append(runner.stop)
        await runner.start_all(Market(("S",), {}, 7))
        clock.advance_to(10 * HOUR_NS)
        would = await prune_runs(app, "1h", dry_run=True)
        assert would.lines[0].startswith("7 runs would be pruned, ")
        told = await prune_runs(app, "1h", dry_run=False)
        assert told.lines[0].startswith("7 runs pruned, ")
        assert told.lines[0].endswith(f"{done[2].run_id} and 2 more")
        assert told.lines[1] == "kept of that age: 1 unfinished"
        assert told.data == json.loads(json.dumps(told.data))
        assert {each["run_id"] for each in told.data["pruned"]} == {run.run_id for run in done}
        assert sum(each["bytes"] for each in told.data["pruned"]) == told.data["bytes"] > 7_000
        assert [each.name for each in (tmp_path / "home" / "runs").iterdir()] == ["trade-S-20260101T000000Z-1"]
        assert (await prune_runs(app, "0m", dry_run=False)).lines[0] == "0 runs pruned, 0 bytes"
        shown = await show_run(app, done[0].run_id)
        assert "Pruned    its saved states are gone, and its orders are kept" in shown.lines
        assert shown.data["orders"][0]["status"] == "filled"
        assert (shown.data["resume_command"], shown.data["fork_command"], shown.data["checkpoints_command"]) == (
            None,
        ) * 3
        again = await decide(app, "A")
        assert (again.run.run_id, again.run.status) == (done[0].run_id.removesuffix("1") + "2", RunStatus.FINISHED)

    async def test_the_books_still_agree(self, new_app):
        app = await new_app(ReplayClock(HOUR_NS))
        await decide(app)
        await prune_runs(app, "0m", dry_run=False)
        found, now = await app.books().reconcile()
        assert (found.differences, now.state) == ((), TradingState.ACTIVE)


class TestFromElsewhere:
    @pytest.fixture
    async def file(self, new_app, tmp_path):
        """A run of another home, in a file."""
        app = await new_app(home=tmp_path / "theirs")
        result = await decide(app)
        path = tmp_path / "run.hold"
        told = await export_run(app, result.run.run_id, path)
        assert told.data == {"run_id": result.run.run_id, "file": str(path), "bytes": path.stat().st_size}
        assert told.lines == [f"exported {result.run.run_id} (finished) to {path}, {path.stat().st_size / 1e3:,.1f} kB"]
        return path, result

    async def test_it_is_shown_and_forked_and_has_no_effect_on_the_books(self, new_app, file):
        path, theirs = file
        app = await new_app()
        told = await import_run(app, path)
        run_id = told.data["run_id"]
        assert (told.data["status"], run_id) == ("imported", theirs.run.run_id)
        assert f"--show {run_id} --home " in told.lines[1]
        shown = await show_run(app, run_id)
        assert shown.data["orders"] == theirs.as_json()["orders"]
        assert (shown.data["was"], shown.data["resume_command"], shown.data["fork_command"]) == ("finished", None, None)
        assert "Imported  it was finished when it was exported" in shown.lines[1]
        found, now = await app.books().reconcile()
        assert (found.differences, now.state) == ((), TradingState.ACTIVE)
        with pytest.raises(InputError, match="was imported"):
            await Runner(app).resume(run_id)
        with pytest.raises(InputError, match="was imported"):
            await Runner(app).resume(theirs.checkpoints[2].checkpoint_id)
        dry = await Runner(app).fork(theirs.checkpoints[2].checkpoint_id)
        assert (dry.run.status, dry.orders[0].status) == (RunStatus.FINISHED, OrderStatus.DENIED)
        wet = await Runner(app).fork(theirs.checkpoints[2].checkpoint_id, orders=True)
        assert (wet.quantity, wet.run.account, wet.run.forked_from) == (theirs.quantity, wet.run.run_id, run_id)
        assert (await decide(app)).run.run_id.endswith("-4")

    async def test_one_that_did_not_finish_is_forked_by_its_id(self, new_app, tmp_path):
        HOOKS.append(lambda: 1 // 0)
        theirs = await new_app(home=tmp_path / "theirs")
        failed = await decide(theirs)
        await export_run(theirs, failed.run.run_id, tmp_path / "run")
        app = await new_app()
        HOOKS.clear()
        await import_run(app, tmp_path / "run")
        shown = await show_run(app, failed.run.run_id)
        assert f"--fork {failed.run.run_id}" in shown.data["fork_command"]
        assert shown.data["error"].startswith("CriticalDegradation: ")
        assert (await Runner(app).fork(failed.run.run_id)).run.status is RunStatus.FINISHED

    async def test_it_goes_when_it_is_pruned(self, new_app, file):
        clock = ReplayClock(HOUR_NS)
        app = await new_app(clock)
        await import_run(app, file[0])
        clock.advance_to(3 * HOUR_NS)
        assert (await prune_runs(app, "3h", dry_run=False)).data["pruned"] == []
        assert len((await prune_runs(app, "2h", dry_run=False)).data["pruned"]) == 1

    async def test_no_secret_goes_along(self, new_app, server, tmp_path):
        secret = "sesame-open"  # noqa: S105
        user = server.locked(secret)
        server.run(f"CREATE SCHEMA {user} AUTHORIZATION {user}")
        address = server.url(user=user, password=secret, schema=user)
        app = await new_app(database=address)
        result = await decide(app)
        await export_run(app, result.run.run_id, tmp_path / "run")
        content = b"".join(
            record.model_dump_json().encode() + body for record, body in unpack((tmp_path / "run").read_bytes())
        )
        assert len(content) > 10_000
        assert b"sesame" not in content
        assert b"postgresql" not in content
