"""What a broker that offers the least has by itself."""

from agents.domain import OrderStatus
from checkpoints.ledger import BrokerReport
from graph.broker import Broker


async def test_where_nothing_rests_a_cancellation_only_asks():
    class Least(Broker):
        idempotent = True

        async def find(self, client_order_id):
            return {"known": BrokerReport(OrderStatus.FILLED, "b1")}.get(client_order_id)

    assert await Least().cancel("known") == BrokerReport(OrderStatus.FILLED, "b1")
    assert await Least().cancel("unknown") is None
