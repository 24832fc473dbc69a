"""Funding: each payment once, and a portfolio is a fold over fills and payments, whoever reads it."""

from decimal import Decimal

import pytest

from agents.domain import Fill, OrderIntent, OrderStatus, Side
from checkpoints.database import Database
from checkpoints.ledger import BrokerReport, Look, OrderLedger

DAY = 86_400 * 10**9


@pytest.fixture
def database(tmp_path):
    with Database.open(tmp_path / "holdfast.db") as database:
        yield database


async def opened(database):
    ledger = OrderLedger(database)
    await ledger.open_account("a", Decimal(1_000))
    return ledger


async def bought(ledger, number=1, time_ns=5):
    intent = OrderIntent.derive(
        run_id="r", account="a", symbol="BTC", side=Side.BUY, quantity=Decimal(1), reference_price=Decimal(100),
        reference_ns=time_ns, decision=number,
    )  # fmt: skip
    await ledger.reserve(intent, lambda _books: ())
    await ledger.mark_sending(intent.intent_id, lambda *_: None)
    fill = Fill(f"t{number}", intent.intent_id, "BTC", Side.BUY, Decimal(1), Decimal(100), Decimal(1), time_ns)
    await ledger.record(intent.intent_id, BrokerReport(OrderStatus.FILLED, "b", (fill,)))
    return intent


async def test_a_payment_changes_cash_and_what_was_realised_once(database):
    ledger = await opened(database)
    await bought(ledger)
    assert await ledger.fund("a", "BTC", 10, Decimal("-0.5"))
    assert not await ledger.fund("a", "BTC", 10, Decimal("-0.5")), "a process that was killed pays again"
    portfolio = await ledger.portfolio("a")
    assert (portfolio.cash, portfolio.realised, portfolio.fees) == (Decimal("898.5"), Decimal("-0.5"), 1)
    assert portfolio.position("BTC").quantity == 1


async def test_whoever_reads_anew_and_whoever_goes_on_see_the_same(database):
    ledger = await opened(database)
    for number in range(1, 4):
        await bought(ledger, number)
        await ledger.fund("a", "BTC", number, Decimal(number))
        await ledger.fund("a", "ETH", number, Decimal("0.1"))
        assert await ledger.portfolio("a") == await OrderLedger(database).portfolio("a")
    assert (await ledger.portfolio("a")).cash == 1_000 - 303 + 6 + Decimal("0.3")


async def test_accounts_do_not_pay_for_each_other(database):
    ledger = await opened(database)
    await ledger.open_account("b", Decimal(5))
    await ledger.fund("a", "BTC", 10, Decimal(-1))
    assert (await ledger.portfolio("b")).cash == 5
    assert await ledger.fund("b", "BTC", 10, Decimal(-1))


async def test_a_day_begins_with_what_was_paid_before_it(database):
    ledger = await opened(database)
    intent = await bought(ledger, time_ns=5)
    look = Look(DAY)
    assert (await ledger.account(intent, look)).opening.cash == 899
    await ledger.fund("a", "BTC", DAY - 1, Decimal(-9))
    await ledger.fund("a", "BTC", DAY, Decimal(-5))
    for reader in (ledger, OrderLedger(database)):
        account = await reader.account(intent, look)
        assert (account.opening.cash, account.portfolio.cash) == (890, 885)
