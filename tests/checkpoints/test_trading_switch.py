"""The trading state as a switch: to stop is easy whatever is broken, and to go on needs somebody, a reason, a log."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text, update

from agents.domain import OrderStatus, TradingState
from agents.errors import InputError, StorageError
from checkpoints import audit, trading_state
from checkpoints.audit import Audit
from checkpoints.database import Database
from checkpoints.halt_file import Halt, HaltFile
from checkpoints.ledger import BrokerReport, OrderLedger
from checkpoints.trading_state import Trading, TradingSwitch, be_careful
from tests.checkpoints.test_trading_state import by_state, filled, intent

ROOT = Path(__file__).parents[2]
ACTIVE, REDUCING, HALTED = TradingState
FIRST = Trading(ACTIVE, "new", "", "", 0)
LUNCH = Trading(HALTED, "operator", "anna", "lunch", 7)
LOSS = Trading(REDUCING, "loss_limit", "holdfast", "3 % were lost", 8)
BACK = Trading(ACTIVE, "operator", "bert", "all is well", 9)
DRAWDOWN = Trading(HALTED, "drawdown", "holdfast", "a tenth was lost", 10)


class Desk:
    """A switch with its database, its file, what it told, and a ledger that asks it."""

    def __init__(self, address, folder):
        self.database = Database.open(address)
        self.file = HaltFile(folder)
        self.told = []
        self.switch = TradingSwitch(self.database, self.file, lambda kind, detail: self.told.append((kind, detail)))
        self.ledger = OrderLedger(self.database, trading=self.switch.now)
        self.asked = 0

    async def reserve(self):
        self.asked += 1
        order = intent(f"run-{self.asked}")
        return await self.ledger.reserve(order, lambda books: (by_state(order, books),))

    async def log(self):
        """From which state to which, and its code, by entry."""
        entries = await Audit(self.database).entries()
        return [(entry.detail["from"], entry.detail["to"], entry.detail["code"]) for entry in entries]

    def row(self):
        return self.database.read(trading_state.read_trading)

    def harm(self, statement):
        self.database.write(lambda connection: connection.execute(text(statement)) and None)

    def kinds(self):
        return Counter(kind for kind, _ in self.told)


@pytest.fixture
async def desk(address, tmp_path):
    made = Desk(address, tmp_path / "home")
    (tmp_path / "home").mkdir()
    await made.ledger.open_account("paper", Decimal(10_000))
    yield made
    made.database.close()


class TestStopping:
    async def test_each_change_is_in_the_log_with_who_and_why(self, desk):
        assert await desk.switch.trip(LOSS)
        assert await desk.switch.trip(LUNCH)
        assert await desk.switch.release(BACK, instead_of=LUNCH, detail={"accepted": 2})
        entries = await Audit(desk.database).entries()
        assert [(entry.kind, entry.who, entry.why, entry.time_ns) for entry in entries] == [
            ("trading_state", each.who, each.why, each.since_ns) for each in (LOSS, LUNCH, BACK)
        ]
        assert [dict(entry.detail) for entry in entries] == [
            {"from": "active", "was": "new", "to": "reducing", "code": "loss_limit"},
            {"from": "reducing", "was": "loss_limit", "to": "halted", "code": "operator"},
            {"from": "halted", "was": "operator", "to": "active", "code": "operator", "accepted": 2},
        ]
        assert (await Audit(desk.database).verify()).wrong == await desk.switch.unaudited() == ""
        assert [detail["hash"] for _, detail in desk.told] == [entry.hash for entry in entries]
        assert desk.file.read() is None

    @pytest.mark.parametrize(
        ("was", "asked", "now"),
        [
            (FIRST, LOSS, LOSS),
            (FIRST, LUNCH, LUNCH),
            (LOSS, DRAWDOWN, DRAWDOWN),
            (LUNCH, LOSS, LUNCH),
            (LUNCH, DRAWDOWN, LUNCH),
            (DRAWDOWN, LUNCH, LUNCH),
            (LOSS, replace(LOSS, why="again", since_ns=99), LOSS),
            (LOSS, replace(LOSS, code="operator", who="anna"), replace(LOSS, code="operator", who="anna")),
            (replace(LOSS, code="restored_backup"), LOSS, LOSS),
            (replace(LOSS, code="reconciliation"), LOSS, LOSS),
            (LUNCH, LUNCH, LUNCH),
            (LOSS, BACK, LOSS),
        ],
    )
    async def test_only_what_is_stricter_takes_the_place(self, desk, was, asked, now):
        if was is not FIRST:
            await desk.switch.trip(was)
        before = await desk.log()
        assert await desk.switch.trip(asked) is (now != was)
        assert await desk.switch.read() == desk.row() == now
        assert len(await desk.log()) - len(before) == (now != was)

    async def test_no_order_goes_from_the_moment_on(self, desk):
        assert (await desk.reserve()).status is OrderStatus.PENDING
        await desk.switch.trip(LUNCH)
        assert (await desk.reserve()).reason == "trading is HALTED (lunch); no order goes until an operator lets it"
        assert not await desk.ledger.mark_sending(intent("run-1").intent_id, by_state)
        assert (await desk.ledger.order(intent("run-1").intent_id)).status is OrderStatus.DENIED


class TestFile:
    async def test_one_made_by_hand_halts_at_once_and_is_taken_in(self, desk):
        assert await desk.switch.heed() is None
        desk.file.path.write_text("the feed lies\n")
        assert (desk.row(), await desk.log()) == (FIRST, [])
        denied = await desk.reserve()
        assert (denied.status, denied.checks[0].value) == (OrderStatus.DENIED, "halted")
        assert denied.reason.startswith("trading is HALTED (the feed lies)")
        halted = await desk.switch.heed()
        assert (halted.state, halted.code, halted.why) == (HALTED, "file", "the feed lies")
        assert desk.row() == halted
        assert await desk.switch.heed() is None
        assert await desk.log() == [("active", "halted", "file")]
        desk.file.path.unlink()
        assert await desk.switch.read() == halted, "to take the file away is no release: nobody said why"

    async def test_it_stops_what_was_reserved_before(self, desk):
        await desk.reserve()
        desk.file.path.touch()
        assert not await desk.ledger.mark_sending(intent("run-1").intent_id, by_state)
        assert (await desk.ledger.refusal(intent("run-1").intent_id, by_state)).value == "halted"

    async def test_what_holdfast_wrote_goes_when_the_database_has_it(self, desk):
        desk.switch.stop_here(LUNCH)
        assert desk.file.read() == Halt(*[getattr(LUNCH, name) for name in ("code", "who", "why", "since_ns")])
        assert (await desk.reserve()).status is OrderStatus.DENIED
        assert await desk.switch.heed() == LUNCH
        assert (desk.file.read(), desk.row()) == (None, LUNCH)

    async def test_a_weaker_trip_leaves_the_file_of_a_halt_that_is_not_taken_in_yet(self, desk):
        desk.switch.stop_here(LUNCH)
        await desk.switch.trip(LOSS)
        assert (await desk.switch.read(), desk.row()) == (LUNCH, LOSS)

    async def test_a_release_takes_it_away_but_not_one_that_came_since(self, desk, monkeypatch):
        desk.file.path.write_text("the feed lies")
        halted = await desk.switch.heed()
        assert await desk.switch.release(BACK, instead_of=halted)
        assert (desk.file.read(), await desk.switch.read()) == (None, BACK)

        desk.file.path.write_text("again")
        seen = await desk.switch.read()
        append = audit.append

        def meanwhile(*given, **more):
            desk.file.path.write_text("and again, for another reason")
            return append(*given, **more)

        monkeypatch.setattr(audit, "append", meanwhile)
        assert await desk.switch.release(replace(BACK, since_ns=11), instead_of=seen)
        assert (await desk.switch.read()).why == "and again, for another reason"

    async def test_one_that_cannot_be_removed_halts_on(self, desk):
        desk.file.path.mkdir()
        halted = await desk.switch.heed()
        with pytest.raises(StorageError, match="trading stays halted by it; remove it by hand"):
            await desk.switch.release(BACK, instead_of=halted)
        assert (await desk.switch.read()).state is HALTED
        assert (await desk.switch.heed()).code == "file"
        assert desk.row().state is HALTED

    async def test_where_it_cannot_be_written_this_process_halts(self, desk):
        desk.file.path.parent.rmdir()
        desk.file.path.parent.write_text("no folder")
        desk.switch.stop_here(LUNCH)
        assert desk.kinds() == {"HaltFileFailed": 1}
        assert await desk.switch.read() == LUNCH
        desk.file.path.parent.unlink()
        assert (await desk.reserve()).status is OrderStatus.DENIED
        assert await desk.switch.heed() == LUNCH
        assert desk.row() == LUNCH
        assert await desk.switch.release(BACK, instead_of=LUNCH)
        assert await desk.switch.read() == BACK

    async def test_without_a_home_it_is_the_same_without_the_file(self, desk):
        switch = TradingSwitch(desk.database)
        switch.stop_here(LUNCH)
        assert await switch.read() == LUNCH
        assert desk.row() == FIRST
        assert await switch.heed() == LUNCH
        assert await switch.release(BACK, instead_of=LUNCH)
        assert await switch.read() == BACK


class TestWithoutTheLog:
    @pytest.mark.parametrize("harm", ["DELETE FROM audit_head", "DROP TABLE audit", "DROP TABLE audit_head"])
    @pytest.mark.parametrize("together", [False, True], ids=["alone", "in one commit with others"])
    async def test_a_stop_holds_and_a_release_does_not(self, desk, harm, together):
        await desk.switch.trip(LOSS)
        desk.harm(harm)
        desk.told.clear()
        others = [desk.database.awrite(lambda connection: None) for _ in range(3 * together)]
        await asyncio.gather(desk.switch.trip(LUNCH), *others)
        assert desk.row() == LUNCH
        assert desk.kinds() == {"TradingChanged": 1, "AuditFailed": 1}
        assert desk.told[1][1]["state"] == "halted"
        assert (await desk.reserve()).status is OrderStatus.DENIED
        others = [desk.database.awrite(lambda connection: None) for _ in range(3 * together)]
        with pytest.raises(StorageError):
            await asyncio.gather(desk.switch.release(BACK, instead_of=LUNCH), *others)
        assert desk.row() == LUNCH
        assert desk.kinds() == {"TradingChanged": 1, "AuditFailed": 1}

    async def test_care_after_a_restore_holds(self, desk):
        desk.harm("DELETE FROM audit_head")
        failed = desk.database.write(lambda connection: be_careful(connection, LOSS))
        assert isinstance(failed, StorageError)
        assert desk.row() == LOSS

    async def test_a_database_that_cannot_be_written_is_halted_by_the_file(self, desk, monkeypatch):
        async def away(work):
            raise StorageError("away")

        with monkeypatch.context() as patch:
            patch.setattr(desk.database, "awrite", away)
            with pytest.raises(StorageError, match="away"):
                await desk.switch.trip(LUNCH)
            assert await desk.switch.read() == LUNCH
        assert desk.row() == FIRST
        assert (await desk.reserve()).status is OrderStatus.DENIED
        assert await desk.switch.heed() == LUNCH
        assert desk.row() == LUNCH


class TestGoingOn:
    @pytest.mark.parametrize("lacks", [{"who": ""}, {"why": ""}, {"why": " \n"}, {"who": "\t"}])
    async def test_it_takes_somebody_and_a_reason(self, desk, lacks):
        await desk.switch.trip(LUNCH)
        with pytest.raises(InputError, match="takes somebody and a reason; nothing was changed"):
            await desk.switch.release(replace(BACK, **lacks), instead_of=LUNCH)
        assert await desk.switch.read() == LUNCH

    async def test_a_state_that_became_another_meanwhile_stays(self, desk):
        await desk.switch.trip(LOSS)
        await desk.switch.trip(DRAWDOWN)
        assert not await desk.switch.release(BACK, instead_of=LOSS)
        desk.file.path.write_text("and by hand")
        assert not await desk.switch.release(BACK, instead_of=DRAWDOWN)
        assert (await desk.switch.read()).why == "and by hand"
        assert [entry[1] for entry in await desk.log()] == ["reducing", "halted"]

    async def test_what_cannot_be_read_can_be_released(self, desk):
        desk.harm("UPDATE trading_state SET state = 'going'")
        now = await desk.switch.read()
        assert (now.state, now.code) == (HALTED, "unreadable_state")
        assert await desk.switch.release(BACK, instead_of=now)
        assert await desk.switch.read() == BACK
        assert await desk.log() == [("halted", "active", "operator")]


class TestUnaudited:
    async def test_a_state_that_was_set_past_this_program_is_found(self, desk):
        assert await desk.switch.unaudited() == ""
        await desk.switch.trip(LUNCH)
        desk.harm("UPDATE trading_state SET state = 'active'")
        told = await desk.switch.unaudited()
        assert told.startswith("the trading state is active (operator: lunch), and the audit log has halted (operator")
        assert told.endswith("it was changed past this program")

    async def test_one_that_is_stricter_may_be_so_by_right(self, desk):
        desk.harm("DELETE FROM audit_head")
        await desk.switch.trip(LUNCH)
        assert (await desk.switch.unaudited()).endswith("it was set when the log could not be written")

    async def test_a_lost_table_is_made_again_as_the_log_has_it(self, tmp_path, desk):
        for harm, state in (("", LUNCH), ("UPDATE audit SET detail = 'x'", trading_state._UNKNOWN)):
            path = tmp_path / f"{len(harm)}.db"
            with Database.open(path) as database:
                await TradingSwitch(database).trip(LUNCH)
                database.write(
                    lambda connection, harm=harm: (
                        [connection.execute(text(each)) for each in (harm, "DROP TABLE trading_state") if each] and None
                    )
                )
            with Database.open(path) as database:
                assert await TradingSwitch(database).read() == state

    async def test_an_entry_that_says_nothing_is_no_state(self, desk):
        await desk.switch.trip(LUNCH)
        desk.database.write(lambda connection: connection.execute(update(audit.rows).values(detail="{}")) and None)
        assert "the audit log has nothing last" in await desk.switch.unaudited()


class TestRecord:
    """What an account's trips rest on: its peak, and its rejections."""

    async def answer(self, desk, run_id, status, price=None):
        order = intent(run_id, quantity="10")
        await desk.ledger.reserve(order, lambda _: ())
        await desk.ledger.mark_sending(order.intent_id)
        report = filled(order) if status is OrderStatus.FILLED else BrokerReport(status)
        fills = [replace(fill, price=Decimal(price)) for fill in report.fills if price]
        await desk.ledger.record(order.intent_id, replace(report, fills=tuple(fills)))

    async def record(self, desk):
        seen = await desk.ledger.account(intent("next"))
        return int(seen.peak), seen.rejects_in_row

    async def test_they_begin_with_the_account_and_anew_when_told(self, desk):
        assert await self.record(desk) == (10_000, 0)
        await self.answer(desk, "one", OrderStatus.FILLED, 100)
        await self.answer(desk, "two", OrderStatus.FILLED, 150)
        for number in range(2):
            await self.answer(desk, f"rejected-{number}", OrderStatus.REJECTED)
        assert await self.record(desk) == (10_500, 2)
        await self.answer(desk, "three", OrderStatus.FILLED, 110)
        await self.answer(desk, "rejected", OrderStatus.REJECTED)
        assert await self.record(desk) == (10_500, 1)
        await desk.ledger.begin_anew()
        assert await self.record(desk) == (0, 0)
        await self.answer(desk, "rejected-again", OrderStatus.REJECTED)
        await self.answer(desk, "four", OrderStatus.UNKNOWN)
        assert await self.record(desk) == (0, 1)
        await self.answer(desk, "five", OrderStatus.FILLED, 100)
        assert await self.record(desk) == (10_000 - 1_000 - 1_500 - 1_100 - 1_000 + 40 * 100, 0)
        await desk.ledger.begin_anew()
        assert await self.record(desk) == (0, 0)

    async def test_an_order_that_was_cancelled_had_been_accepted(self, desk):
        await self.answer(desk, "rejected", OrderStatus.REJECTED)
        await self.answer(desk, "cancelled", OrderStatus.CANCELLED)
        assert await self.record(desk) == (10_000, 0)

    @pytest.mark.parametrize(
        ("first", "then", "ends"),
        [
            (OrderStatus.OPEN, OrderStatus.CANCELLED, OrderStatus.CANCELLED),
            (OrderStatus.UNKNOWN, OrderStatus.CANCELLED, OrderStatus.CANCELLED),
            (OrderStatus.CANCELLED, OrderStatus.FILLED, OrderStatus.FILLED),
            (OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.FILLED),
            (OrderStatus.CANCELLED, OrderStatus.OPEN, OrderStatus.CANCELLED),
            (OrderStatus.CANCELLED, OrderStatus.UNKNOWN, OrderStatus.CANCELLED),
        ],
    )
    async def test_the_steps_to_and_from_a_cancellation(self, desk, first, then, ends):
        await self.answer(desk, "one", first)
        await self.answer(desk, "one", then)
        assert (await desk.ledger.order(intent("one").intent_id)).status is ends
        assert len(await desk.ledger.at_broker()) == 0


_DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from checkpoints import audit, trading_state
from tests.checkpoints.test_trading_switch import Desk, LUNCH
def die(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)
owner, name = {"audit": (audit, "append"), "state": (trading_state, "_set"), "file": (Desk.__init__.__globals__["HaltFile"], "remove")}[sys.argv[3]]
setattr(owner, name, die)
desk = Desk(sys.argv[1], Path(sys.argv[2]))
asyncio.run(desk.switch.trip(LUNCH))
"""  # noqa: E501


class TestKilled:
    @pytest.mark.parametrize("at", ["state", "audit", "file"])
    async def test_between_the_state_and_the_log_it_is_halted_and_both_come_together(self, desk, address, at):
        line = [sys.executable, "-c", _DYING, address, str(desk.file.path.parent), at]
        done = await asyncio.to_thread(subprocess.run, line, cwd=ROOT, check=False, capture_output=True, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert (desk.row(), len(await desk.log())) == ((LUNCH, 1) if at == "file" else (FIRST, 0))
        assert (await desk.reserve()).status is OrderStatus.DENIED
        await desk.switch.heed()
        assert (desk.row(), await desk.log()) == (LUNCH, [("active", "halted", "operator")])
        assert (desk.file.read(), await desk.switch.unaudited()) == (None, "")


_RIVAL = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from tests.checkpoints.test_trading_switch import BACK, Desk, LOSS, LUNCH
desk = Desk(sys.argv[1], Path(sys.argv[2]))
async def main():
    for number in range(15):
        await desk.switch.trip(replace(LOSS, why=f"{sys.argv[3]} {number}"))
        await desk.switch.trip(replace(LUNCH, why=f"{sys.argv[3]} {number}"))
        await desk.switch.release(replace(BACK, why=f"{sys.argv[3]} {number}"), instead_of=await desk.switch.read())
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""


async def test_two_processes_at_once_leave_one_chain_of_changes(desk, address):
    line = [sys.executable, "-c", _RIVAL, address, str(desk.file.path.parent)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE, "cwd": ROOT}
    rivals = [await asyncio.create_subprocess_exec(*line, name, **pipes) for name in ("one", "two")]
    for rival in rivals:
        assert await rival.stdout.readline() == b"ready\n"
    for rival in rivals:
        rival.stdin.write(b"\n")
        await rival.stdin.drain()
    for rival in rivals:
        await rival.communicate()
    assert [rival.returncode for rival in rivals] == [0, 0]
    log = await desk.log()
    assert [entry[0] for entry in log[1:]] == [entry[1] for entry in log[:-1]], "each begins where the last one ended"
    assert (await Audit(desk.database).verify()).wrong == await desk.switch.unaudited() == ""
    assert desk.row().state == log[-1][1]
    assert list(desk.file.path.parent.iterdir()) == []
