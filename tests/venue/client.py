"""The venue's client: calls that block, since loopback is not worth a loop; its owner may be killed in each."""

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from agents.clock import Clock
from agents.domain import Fill, OrderIntent, OrderStatus
from agents.errors import BrokerUnavailable
from checkpoints.ledger import BrokerReport
from graph.broker import Broker

__all__ = ["Remote", "pass_points"]

passing: Callable[[str], None] = lambda _name: None  # noqa: E731


def pass_points(at: Callable[[str], None]) -> None:
    """From now on tell of each step of a message; there is no way back."""
    global passing  # noqa: PLW0603
    passing = at


@dataclass(frozen=True, slots=True)
class Remote(Broker):
    """A broker behind a port, with the books that it has of this home."""

    port: int
    home: Path
    clock: Clock
    idempotent: bool = False

    async def send(self, intent: OrderIntent) -> BrokerReport:
        message = {
            "id": intent.intent_id,
            "type": str(intent.type),
            "symbol": intent.symbol,
            "side": str(intent.side),
            "quantity": str(intent.quantity),
        }
        report = self._report(intent.intent_id, self._ask("send", message))
        if report is None:
            raise BrokerUnavailable("the venue did not take the order; ask what became of it")
        return report

    async def find(self, client_order_id: str) -> BrokerReport | None:
        return self._report(client_order_id, self._ask("find", {"id": client_order_id}))

    async def cancel(self, client_order_id: str) -> BrokerReport | None:
        return self._report(client_order_id, self._ask("cancel", {"id": client_order_id}))

    async def executed(self) -> None:
        return None

    async def intent(self, client_order_id: str) -> OrderIntent | None:
        return None

    def time_ns(self) -> int:
        """The newest time that the venue was told of."""
        return int(self._ask("time", {})["now_ns"])

    def _ask(self, do: str, more: Mapping[str, Any]) -> Any:
        request = {"home": str(self.home), "do": do, "now_ns": self.clock.now_ns(), **more}
        passing(f"venue {do}")
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=30)) as connection:
            passing(f"venue {do} connected")
            connection.sendall(json.dumps(request).encode() + b"\n")
            passing(f"venue {do} sent")
            answer = connection.makefile().readline()
        passing(f"venue {do} answered")
        if not answer:
            raise ConnectionError("the venue hung up")
        said = json.loads(answer)
        if isinstance(said, dict) and "status" in said:
            raise BrokerUnavailable(f"the venue answered with {said['status']}")
        return said

    def _report(self, name: str, said: Any) -> BrokerReport | None:
        if said is None:
            return None
        fills = tuple(
            Fill(trade_id, name, said["symbol"], said["side"], Decimal(quantity), Decimal(100), Decimal(0), 1)
            for trade_id, quantity in said["trades"]
        )
        return BrokerReport(OrderStatus(said["state"]), said["name"], fills)
