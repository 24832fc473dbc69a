"""Where requests are carried out: who asks, whether he may, what he gets, and what goes wrong on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from graph.exchange.agenda import Agenda
from graph.exchange.budget import Budget, RateLimits
from graph.exchange.calls import METHODS, Call
from graph.exchange.engine import Engine
from graph.exchange.menu import ExchangeFault, FaultKind, FaultMenu
from graph.exchange.orders import Order
from graph.exchange.params import Params
from graph.exchange.refusal import Refusal, missing_parameter
from graph.exchange.signing import check_time, client
from graph.exchange.venue import Venue

__all__ = ["Answer", "Asked", "Counter", "Ways"]

_REFUSALS: Mapping[FaultKind, Callable[[int], Refusal]] = {
    FaultKind.UNAVAILABLE: lambda _: Refusal(-1000, "Service Unavailable.", 503),
    FaultKind.OVERLOAD: lambda _: Refusal(-1008, "Server is currently overloaded with other requests.", 503),
    FaultKind.LIMIT: lambda seconds: Refusal(-1003, "Too many requests queued.", 429, seconds),
    FaultKind.BAN: lambda seconds: Refusal(-1003, "Way too much request weight used; IP banned.", 418, seconds),
    FaultKind.ORDER_LIMIT: lambda _: Refusal(-1015, "Too many new orders.", 429),
}
_AFTERTHOUGHTS: Mapping[FaultKind, Refusal] = {
    FaultKind.ACK_503: Refusal(-1000, "Unknown error, please check your request or try again later.", 503),
    FaultKind.ACK_1006: Refusal(-1006, "An unexpected response was received from the message bus.", 500),
    FaultKind.ACK_1007: Refusal(-1007, "Timeout waiting for response from backend server.", 504),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, however it came. `payload` is what `signature` signs; `peer` whose budget it counts on."""

    method: str
    params: Mapping[str, Any]
    key: str = ""
    payload: str = ""
    signature: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """`result`, or why there is none. `dropped`: the connection breaks instead; `garbled`: it cannot be read."""

    result: Any = None
    refusal: Refusal | None = None
    dropped: bool = False
    garbled: bool = False
    late_seconds: float = 0.0
    used: Mapping[str, int] = field(default_factory=dict)


class Ways:
    """Draws how long the way to the engine, or back, takes: `median_ms` mostly, and ten times that at most."""

    def __init__(self, dice: Random, median_ms: float) -> None:
        self._dice = dice
        self._median_ms = median_ms

    def seconds(self) -> float:
        if not self._median_ms:
            return 0.0
        return min(self._median_ms * self._dice.lognormvariate(0.0, 0.6), 10 * self._median_ms) / 1e3


class Counter:
    """Carries out requests, one after another."""

    def __init__(self, venue: Venue, agenda: Agenda, menu: FaultMenu, limits: RateLimits, ways: Ways) -> None:
        self._venue = venue
        self._agenda = agenda
        self._menu = menu
        self._limits = limits
        self._ways = ways
        self._peers: dict[str, Budget] = {}
        self.settled: Callable[[], None] = lambda: None
        """Called when something has been carried out, and before anybody hears of it."""

    def ask(self, asked: Asked, answer: Callable[[Answer], None]) -> None:
        """Carry out a request when it has arrived, and answer it when the answer has."""

        def arrived() -> None:
            given = self._handle(asked)
            self.settled()
            self._agenda.after(self._ways.seconds() + given.late_seconds, lambda: answer(given))

        self._agenda.after(self._ways.seconds(), arrived)

    def subscriber(self, asked: Asked) -> str:
        """The owner of the account that a signed subscription is for. Raises Refusal."""
        params = Params(asked.params)
        key = self._signed(asked, params, self._agenda.now_ms)
        params.finish()
        return key

    def _strikes(self, kind: FaultKind, asked: Asked) -> ExchangeFault | None:
        return self._menu.strikes(kind, asked.method, self._agenda.now_ns / 1e9)

    def _handle(self, asked: Asked) -> Answer:
        if self._strikes(FaultKind.LOST, asked):
            return Answer(dropped=True)
        budget = self._peers.setdefault(asked.peer, Budget(self._limits))
        try:
            result, refusal = self._carry_out(asked, budget), None
        except Refusal as error:
            result, refusal = None, error
        return self._afterwards(asked, Answer(result, refusal, used=budget.used(self._agenda.now_ms)))

    def _afterwards(self, asked: Asked, answer: Answer) -> Answer:
        """What is done is done, and yet the client may not hear of it."""
        slow = self._strikes(FaultKind.SLOW, asked)
        late = slow.seconds if slow else 0.0
        if self._strikes(FaultKind.DROP_ACK, asked):
            return Answer(dropped=True, late_seconds=late)
        for kind, refusal in _AFTERTHOUGHTS.items():
            if self._strikes(kind, asked):
                return Answer(refusal=refusal, late_seconds=late, used=answer.used)
        garbled = self._strikes(FaultKind.GARBLE, asked) is not None
        return Answer(answer.result, answer.refusal, garbled=garbled, late_seconds=late, used=answer.used)

    def _carry_out(self, asked: Asked, budget: Budget) -> Any:
        for kind, refusal in _REFUSALS.items():
            fault = self._strikes(kind, asked)
            if fault is not None:
                raise refusal(max(1, round(fault.seconds)))
        method = METHODS.get(asked.method)
        if method is None:
            raise Refusal(-1020, "This operation is not supported.")
        now_ms = self._agenda.now_ms
        budget.charge(method.weight, now_ms)
        skew = self._strikes(FaultKind.SKEW, asked)
        server_ms = now_ms + (round(skew.seconds * 1e3) if skew else 0)
        params = Params(asked.params)
        account = self._venue.accounts[self._signed(asked, params, server_ms)] if method.signed else None
        if method.places:
            budget.charge_order(now_ms)
        call = Call(self._venue, params, now_ms, server_ms, self._limits, account)
        if asked.method == "order.cancel":
            return self._cancel(asked, call)
        return method.answer(call)

    def _signed(self, asked: Asked, params: Params, server_ms: int) -> str:
        account = client(self._venue.accounts, asked.key, asked.payload, asked.signature)
        timestamp, window = params.whole("timestamp"), params.whole("recvWindow")
        if timestamp is None:
            raise missing_parameter("timestamp")
        check_time(timestamp, window, server_ms)
        return account.key

    def _cancel(self, asked: Asked, call: Call) -> Any:
        """A cancellation meets a fill, where the plan wants that: before it, or after it has been confirmed."""
        params = Params(asked.params)
        number, name = params.whole("orderId"), params.optional("origClientOrderId")
        order = self._venue.registry(call.owner, params.text("symbol")).find(number, name)
        engine = self._venue.engines.get(params.text("symbol"))
        if order is not None and engine is not None and order.open and self._strikes(FaultKind.FILL_ON_CANCEL, asked):
            engine.fill_now(order, call.now_ms)
        answer = METHODS["order.cancel"].answer(call)
        late = self._strikes(FaultKind.LATE_FILL, asked)
        if late is not None and order is not None and engine is not None:
            self._agenda.after(late.seconds, lambda: self._fill_late(engine, order))
        return answer

    def _fill_late(self, engine: Engine, order: Order) -> None:
        engine.fill_late(order, order.left, self._agenda.now_ms)
        self.settled()
