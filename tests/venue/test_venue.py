"""Killed at each step of sending an order, against a venue in another process: none is lost, and none goes twice.

`python -m tests.venue` tries every point.
"""

import json
import subprocess
import sys

import pytest

from tests.test_architecture import ROOT
from tests.venue.story import VARIANTS

KILLED_ONCE, KILLED_TWICE = 250, 120
STEPS = {
    "the intent is written down": ("insert orders", "insert orders done"),
    "it is on disk": ("commit holdfast.db", "commit holdfast.db done"),
    "it is marked as being sent": ("update orders", "update orders done"),
    "it is sent": ("venue send", "venue send connected", "venue send sent", "venue send answered"),
    "what was done is booked": ("insert fills", "insert fills done"),
    "its fate is asked for": ("venue find", "venue find sent", "venue find answered"),
    "it is taken out": ("venue cancel", "venue cancel sent", "venue cancel answered"),
}


def played(*arguments, code=""):
    """In a process of its own: it forks, and pytest's own may have threads by now."""
    program = f"import sys\nfrom tests.venue.__main__ import main\n{code}\nsys.exit(main({[*arguments]!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def report():
    done = played("--kills", str(KILLED_ONCE), "--doubles", str(KILLED_TWICE))
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_no_order_is_lost_and_none_goes_twice(report):
    assert [(each["replay"], each["broken"]) for each in report["broken"]] == []
    assert report["cycles"] == KILLED_ONCE + KILLED_TWICE
    assert report["kills"] - report["doubles"] >= KILLED_ONCE
    assert report["doubles"] > KILLED_TWICE / 2


def test_at_each_step_somebody_was_killed(report):
    named = {name for names in STEPS.values() for name in names}
    assert report["points"] > len(named)
    assert named & set(report["never"]) == set()
    assert {name.partition(" ")[0] for name in report["never"]} <= {"savepoint", "release"}, (
        "what shares a batch varies"
    )
    assert set(report["by_variant"]) == set(VARIANTS)
    assert min(report["by_variant"].values()) >= 10


HASTY = """
import graph.inquiry
graph.inquiry.GRACE_S = 0.0
graph.inquiry.Inquiry.is_overdue = lambda self, name: graph.inquiry.asyncio.sleep(0, True)
"""
TRUSTING = """
from tests.venue.client import Remote
Remote.idempotent = property(lambda self: True, lambda self, value: None)
"""
MARKING_AFTER = """
from graph.desk import OrderDesk
settle = OrderDesk._settle

async def _settle(self, order):
    if order.status != "pending":
        return await settle(self, order)
    report = await self._broker.send(order.intent)
    await self._ledger.mark_sending(order.client_order_id)
    return await self._ledger.record(order.client_order_id, report)

OrderDesk._settle = _settle
"""


@pytest.mark.parametrize(
    ("code", "variant"),
    [
        pytest.param(HASTY, "late", id="not placed before a message on its way has run out of time"),
        pytest.param(TRUSTING, "late", id="sent again under an id that the venue would execute again"),
        pytest.param(MARKING_AFTER, "well", id="marked as being sent after it was sent"),
    ],
)
def test_without_a_rule_of_the_protocol_it_is_found(code, variant):
    done = played("--variant", variant, "--kills", "40", code=code)
    assert done.returncode == 1
    assert "it is not so that each decision was executed once" in done.stdout + done.stderr
