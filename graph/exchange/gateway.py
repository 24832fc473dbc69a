"""The whole exchange but its sockets: connections and requests come in, frames and answers go out, time is given."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol
from urllib.parse import parse_qsl

from agents.clock import Clock
from graph.exchange import messages
from graph.exchange.accounts import Account
from graph.exchange.agenda import Agenda
from graph.exchange.api import ApiSession, Audience
from graph.exchange.budget import RateLimits
from graph.exchange.calls import ROUTES
from graph.exchange.connection import LIFETIME_SECONDS, Connection, Wire
from graph.exchange.counter import Answer, Asked, Counter, Ways
from graph.exchange.engine import Engine
from graph.exchange.hub import Hub, encode
from graph.exchange.menu import FaultKind, FaultMenu
from graph.exchange.orders import Execution, Order, Trade
from graph.exchange.refusal import Refusal
from graph.exchange.scripts import Script
from graph.exchange.signing import payload_of
from graph.exchange.streams import BadControl, StreamSession
from graph.exchange.symbols import SymbolRules
from graph.exchange.venue import Past, Venue

__all__ = ["Exchange", "Journal", "Opening", "Reply", "Request"]

_PULSE_NS, _SECOND_NS = 100_000_000, 1_000_000_000


class Journal(Protocol):
    """Where clients' orders and balances are kept beyond the life of a process."""

    def save(self, orders: Iterable[Order], accounts: Iterable[Account]) -> None:
        """Keep what has changed; when this returns, it is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What an exchange is opened with.

    `steps`: of the crowd, a second; `latency_ms`: of one way to the engine, the median, 0 for none.
    """

    scripts: Mapping[SymbolRules, Script]
    accounts: Iterable[Account]
    seed: int = 0
    steps: float = 10.0
    latency_ms: float = 2.0
    limits: RateLimits = field(default_factory=RateLimits)
    past: Past = field(default_factory=Past)
    journal: Journal | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One by HTTP. `query` and `body` as they were sent; `key`: the header X-MBX-APIKEY."""

    method: str
    path: str
    query: str = ""
    body: str = ""
    key: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer by HTTP; the body is JSON, or was meant to be."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Exchange:
    """Make it, and call `advance` whenever the time has come that it gives. `on_sooner`: the time has come sooner."""

    def __init__(self, opening: Opening, clock: Clock, menu: FaultMenu | None = None) -> None:
        self._clock = clock
        self.menu = menu or FaultMenu()
        self.agenda = Agenda(clock.now_ns())
        self.menu.begin(self.agenda.now_ns / 1e9)
        now_ms, seed = self.agenda.now_ms, opening.seed
        self.venue = Venue(opening.scripts, opening.accounts, self, seed=seed, now_ms=now_ms, past=opening.past)
        self.hub = Hub(self.venue.engines)
        dice = Random(f"{seed}/counter")  # noqa: S311 - no secret
        self._counter = Counter(self.venue, self.agenda, self.menu, opening.limits, Ways(dice, opening.latency_ms))
        self._counter.settled = self._settle
        self._limits = opening.limits
        self._journal = opening.journal
        self._dice = Random(f"{seed}/connections")  # noqa: S311
        self._connections: dict[Connection, None] = {}
        self._audience: Audience = {}
        self._changed: dict[tuple[str, int], Order] = {}
        self._pulsing = False
        self.on_sooner: Callable[[], None] = lambda: None
        self._begin(opening.steps)

    def advance(self) -> int:
        """Let happen what is due; gives when to come again, nanoseconds UTC."""
        return self.agenda.run(self._clock.now_ns())

    def connect(self, path: str, query: str, wire: Wire, peer: str = "") -> Connection | int:
        """Take a WebSocket connection, or refuse it with an HTTP status."""
        self.advance()
        now = self.agenda.now_ns / 1e9
        if self.menu.strikes(FaultKind.REFUSE, path, now):
            return 503
        cut = self.menu.strikes(FaultKind.CUT, path, now)
        lifetime = cut.seconds if cut else LIFETIME_SECONDS
        connection = Connection(wire, self.agenda, self.menu, self._dice, lifetime)
        status = self._speak(connection, path, query, peer)
        if status:
            return status
        end, connection.on_storm = connection.on_end, self._storm
        self._connections[connection] = None

        def ended() -> None:
            self._connections.pop(connection, None)
            end()

        connection.on_end = ended
        self.on_sooner()
        return connection

    def receive(self, connection: Connection, frame: bytes) -> None:
        """A text frame has come in on a connection."""
        self.advance()
        connection.receive(frame)
        self.on_sooner()

    def request(self, request: Request, answer: Callable[[Reply | None], None]) -> None:
        """Answer a request when it is time; None where the connection breaks instead."""
        self.advance()
        method = ROUTES.get((request.method, request.path))
        if method is None:
            answer(Reply(404, b'{"code":-1000,"msg":"There is no such endpoint."}'))
            return
        try:
            asked = _asked(method, request)
        except Refusal as refusal:
            answer(_reply(Answer(refusal=refusal)))
            return
        self._counter.ask(asked, lambda given: answer(_reply(given)))
        self.on_sooner()

    def close(self) -> None:
        """Close all connections, properly."""
        for connection in list(self._connections):
            connection.close(1001)

    # What the engines tell

    def traded(self, engine: Engine, trade: Trade) -> None:
        self.hub.traded(engine, trade)

    def taken(self, engine: Engine, trades: list[Trade]) -> None:
        self.hub.taken(engine, trades)

    def reported(self, order: Order, what: str, execution: Execution | None) -> None:
        self._changed[order.symbol, order.number] = order
        now_ms = self.agenda.now_ms
        account, rules = self.venue.accounts[order.owner], self.venue.engines[order.symbol].rules
        account.update_ms = now_ms
        listeners = self._audience.get(order.owner)
        if listeners:
            report = messages.execution_report(order, what, execution, now_ms)
            balances = messages.account_event(account, (rules.base, rules.quote), now_ms)
            for event in (report, balances):
                for session in list(listeners):
                    session.tell(order.owner, event)

    # What it does by the clock

    def _begin(self, steps: float) -> None:
        self._step()  # nobody meets an empty book
        self.agenda.every(round(1e9 / steps), self._step)
        self.agenda.every(_SECOND_NS, lambda: self.hub.second(self.agenda.now_ms))
        self.hub.on_quick = self._begin_pulse

    def _begin_pulse(self) -> None:
        if not self._pulsing:
            self._pulsing = True
            self.agenda.every(_PULSE_NS, self._pulse)

    def _pulse(self) -> bool:
        self.hub.pulse(self.agenda.now_ms)
        self._pulsing = self.hub.quick
        return self._pulsing

    def _step(self) -> None:
        self.venue.step(self.agenda.now_ms)
        self._settle()

    def _settle(self) -> None:
        """Something has happened: what is to be kept is kept, before anybody is answered."""
        if self._changed and self._journal is not None:
            orders = list(self._changed.values())
            owners = dict.fromkeys(order.owner for order in orders)
            self._journal.save(orders, [self.venue.accounts[owner] for owner in owners])
        self._changed.clear()
        self.hub.moved()

    # Connections

    def _speak(self, connection: Connection, path: str, query: str, peer: str) -> int:
        """Find out what a connection is for; gives the HTTP status for one that is for nothing."""
        if path == "/ws-api/v3":
            ApiSession(connection, self._counter, self._limits, peer, self._audience)
            return 0
        if path == "/stream":
            names = [name for key, value in parse_qsl(query) if key == "streams" for name in value.split("/")]
            wrapped = True
        elif path == "/ws" or path.startswith("/ws/"):
            names, wrapped = [name for name in path.split("/")[2:] if name], False
        else:
            return 404
        session = StreamSession(connection, self.hub, self.agenda, self.menu, wrapped=wrapped)
        try:
            session.subscribe(names)
        except BadControl:
            return 400
        return 0

    def _storm(self) -> None:
        for connection in list(self._connections):
            connection.reset()


def _asked(method: str, request: Request) -> Asked:
    """Raises Refusal for a parameter that comes twice."""
    pairs = parse_qsl(f"{request.query}&{request.body}", keep_blank_values=True)
    params = dict(pairs)
    if len(params) != len(pairs):
        raise Refusal(-1101, "Duplicate values for a parameter detected.")
    signature = params.pop("signature", "")
    payload = payload_of(request.query, request.body)
    return Asked(method, params, request.key, payload, signature, request.peer)


def _reply(answer: Answer) -> Reply | None:
    if answer.dropped:
        return None
    headers = {"X-MBX-USED-WEIGHT-1M": str(answer.used.get("weight", 0))}
    if answer.used.get("orders"):
        headers["X-MBX-ORDER-COUNT-10S"] = str(answer.used["orders"])
    status, content = 200, answer.result
    if answer.refusal is not None:
        status, content = answer.refusal.status, {"code": answer.refusal.code, "msg": answer.refusal.text}
        if answer.refusal.retry_after is not None:
            headers["Retry-After"] = str(answer.refusal.retry_after)
    body: Any = encode(content)
    return Reply(status, body[: len(body) // 2] if answer.garbled else body, headers)
