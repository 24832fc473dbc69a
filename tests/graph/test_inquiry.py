"""What became of an order: asked several times in a row and after a time, and nothing is concluded from silence."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from agents.clock import ReplayClock
from agents.domain import OrderStatus
from agents.errors import BrokerUnavailable
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, OrderLedger
from graph.broker import Broker
from graph.inquiry import GRACE_S, SPACING_S, TRIES, Inquiry, grace_of
from graph.resilience import Guard
from graph.resilience.virtual import VirtualClock
from tests.checkpoints.test_ledger import filled, intent, sent

S_NS = 10**9


@dataclass
class Venue(Broker):
    """Gives these answers, one after another, and then the last again; remembers when it was asked."""

    answers: list = field(default_factory=lambda: [None])
    idempotent: bool = False
    asked: list = field(default_factory=list)

    async def find(self, client_order_id):
        self.asked.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def send(self, order):
        raise AssertionError("nothing is sent from here")


@dataclass
class Asked:
    """What came of it: the error, or the status; how the ledger has it, and how far apart the questions were."""

    error: str
    status: OrderStatus
    gaps: list


def ask(age_s, *answers, **venue):
    broker = Venue(list(answers), **venue)

    async def work():
        clock = ReplayClock(1_000 * S_NS)
        with Database.open(":memory:", inline=True) as database:
            ledger = OrderLedger(database, clock=clock)
            await ledger.open_account("paper", Decimal(1_000))
            order = await sent(ledger, intent())
            clock.advance_to(clock.now_ns() + round(age_s * S_NS))
            inquiry = Inquiry(ledger, broker, Guard("broker", retry=None, breaker=None), clock)
            error = ""
            try:
                settled = await inquiry.settle(await ledger.order(order.intent_id))
                assert settled == await ledger.order(order.intent_id)
            except BrokerUnavailable as why:
                error = str(why)
            status = (await ledger.order(order.intent_id)).status
        gaps = [round(late - early, 6) for early, late in zip(broker.asked, broker.asked[1:], strict=False)]
        return Asked(error, status, gaps)

    with VirtualClock(0) as clock:
        return clock.run(work())


FOUND = filled(intent())


def test_never_seen_so_often_and_so_late_is_not_placed():
    asked = ask(GRACE_S, None)
    assert (asked.error, asked.status, asked.gaps) == ("", OrderStatus.NOT_PLACED, [SPACING_S] * (TRIES - 1))


def test_before_the_time_is_over_one_answer_says_nothing():
    asked = ask(GRACE_S - 0.001, None)
    assert (asked.status, asked.gaps) == (OrderStatus.UNKNOWN, [])
    assert "is unknown to the broker; it was not sent again; ask later" in asked.error


@pytest.mark.parametrize("after", range(TRIES))
def test_what_is_found_at_any_try_is_what_happened(after):
    asked = ask(GRACE_S, *[None] * after, FOUND)
    assert (asked.error, asked.status, len(asked.gaps)) == ("", OrderStatus.FILLED, after)


@pytest.mark.parametrize("trouble", [ConnectionError("dead"), {"code": -2013}])
@pytest.mark.parametrize("after", range(TRIES))
def test_one_silence_among_the_answers_and_nothing_is_concluded(after, trouble):
    asked = ask(GRACE_S, *[None] * after, trouble, None)
    assert asked.status is OrderStatus.SENDING
    assert "did not say what became of order" in asked.error
    assert "nothing was sent; ask later" in asked.error


def test_where_an_id_never_executes_twice_nobody_need_wait_and_nothing_is_given_up():
    """Its decision sends it again under its id, which is safe at any time."""
    asked = ask(10 * GRACE_S, None, idempotent=True)
    assert (asked.status, asked.gaps) == (OrderStatus.SENDING, [])
    assert asked.error
    assert ask(0, FOUND, idempotent=True).status is OrderStatus.FILLED


def test_who_lets_an_attempt_take_longer_waits_longer():
    assert [grace_of(seconds) for seconds in (1.0, 30.0, 100.0)] == [GRACE_S, GRACE_S, GRACE_S + 70.0]


async def test_what_an_older_version_has_sent_is_as_old_as_the_first_question():
    with Database.open(":memory:", inline=True) as database:
        clock = ReplayClock(5)
        ledger = OrderLedger(database, clock=clock)
        await ledger.open_account("paper", Decimal(1_000))
        order = await sent(ledger, intent())
        database.write(lambda connection: connection.exec_driver_sql("UPDATE orders SET sent_ns = NULL"))
        inquiry = Inquiry(ledger, Venue(), Guard("broker", retry=None), clock)
        for now_s, overdue in ((7 * GRACE_S, False), (8 * GRACE_S - 1, False), (8 * GRACE_S, True)):
            clock.advance_to(round(now_s * S_NS))
            assert await inquiry.is_overdue(order.intent_id) is overdue


def test_the_broker_report_of_a_stranger_is_not_believed():
    other = BrokerReport(OrderStatus.FILLED, fills=filled(intent("other")).fills)
    with pytest.raises(Exception, match="was reported for order"):
        ask(0, other)
