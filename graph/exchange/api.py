"""One connection to the WebSocket API: requests as JSON, and the user stream of who has subscribed to it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from graph.exchange.budget import RateLimits, limits_info
from graph.exchange.connection import Connection
from graph.exchange.counter import Answer, Asked, Counter
from graph.exchange.hub import encode
from graph.exchange.refusal import Refusal

__all__ = ["ApiSession", "Audience"]

_SUBSCRIBE = "userDataStream.subscribe.signature"
_UNSUBSCRIBE = "userDataStream.unsubscribe"
_SUBSCRIPTIONS = "session.subscriptions"
_OF_THE_API = frozenset({"apiKey", "signature", "returnRateLimits"})
"""Parameters that are no method's own."""


class _Request(msgspec.Struct):
    method: str
    id: int | str | None = None
    params: dict[str, Any] = {}


_read = msgspec.json.Decoder(_Request).decode


class ApiSession:
    """`audience`: who listens to whose stream; a session puts itself in, and takes itself out."""

    def __init__(
        self,
        connection: Connection,
        counter: Counter,
        limits: RateLimits,
        peer: str,
        audience: "Audience",
    ) -> None:
        self._connection = connection
        self._counter = counter
        self._limits = limits
        self._peer = peer
        self._audience = audience
        self._subscriptions: dict[str, int] = {}  # owner -> number of the subscription
        self._numbers = 0
        connection.heard = self._heard
        connection.on_end = self._ended

    def tell(self, owner: str, event: Mapping[str, Any]) -> None:
        """Send an event of an owner's stream."""
        number = self._subscriptions.get(owner)
        if number is not None:
            self._connection.send("user", encode({"subscriptionId": number, "event": event}))

    def _heard(self, frame: bytes) -> None:
        try:
            request = _read(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._answer("", None, Answer(refusal=Refusal(-1135, "Invalid JSON Request")))
            return
        own = {_SUBSCRIBE: self._subscribe, _UNSUBSCRIBE: self._unsubscribe, _SUBSCRIPTIONS: self._list}
        if request.method in own:
            try:
                answer = Answer(own[request.method](request.params))
            except Refusal as refusal:
                answer = Answer(refusal=refusal)
            self._answer(request.method, request.id, answer)
            return
        brief = request.params.get("returnRateLimits") is False
        self._counter.ask(
            self._asked(request.method, request.params),
            lambda answer: self._answer(request.method, request.id, answer, brief=brief),
        )

    def _asked(self, method: str, params: Mapping[str, Any]) -> Asked:
        rest = {name: value for name, value in params.items() if name not in _OF_THE_API}
        signed = sorted((name, value) for name, value in params.items() if name != "signature")
        payload = "&".join(f"{name}={_signed_text(value)}" for name, value in signed)
        key, signature = str(params.get("apiKey") or ""), str(params.get("signature") or "")
        return Asked(method, rest, key, payload, signature, self._peer)

    def _subscribe(self, params: Mapping[str, Any]) -> Any:
        owner = self._counter.subscriber(self._asked(_SUBSCRIBE, params))
        if owner in self._subscriptions:
            raise Refusal(-2035, "User Data Stream subscription already active.")
        self._subscriptions[owner] = self._numbers
        self._numbers += 1
        self._audience.setdefault(owner, {})[self] = None
        return {"subscriptionId": self._subscriptions[owner]}

    def _unsubscribe(self, params: Mapping[str, Any]) -> Any:
        wanted = params.get("subscriptionId")
        for owner, number in list(self._subscriptions.items()):
            if wanted in {None, number}:
                del self._subscriptions[owner]
                self._audience[owner].pop(self, None)
        return {}

    def _list(self, _: Mapping[str, Any]) -> Any:
        return [{"subscriptionId": number} for number in self._subscriptions.values()]

    def _answer(self, method: str, number: int | str | None, answer: Answer, *, brief: bool = False) -> None:
        if answer.dropped:
            self._connection.reset()
            return
        status = 200 if answer.refusal is None else answer.refusal.status
        shape: dict[str, Any] = {"id": number, "status": status}
        if answer.refusal is None:
            shape["result"] = answer.result
        else:
            shape["error"] = {"code": answer.refusal.code, "msg": answer.refusal.text}
            if answer.refusal.retry_after is not None:
                shape["error"]["data"] = {"retryAfter": answer.refusal.retry_after}
        if not brief:
            shape["rateLimits"] = self._used(answer)
        frame = encode(shape)
        self._connection.reply(method or "api", frame[: len(frame) // 2] if answer.garbled else frame)

    def _used(self, answer: Answer) -> list[dict[str, Any]]:
        used = (answer.used.get(name, 0) for name in ("weight", "orders", "day"))
        return [each | {"count": count} for each, count in zip(limits_info(self._limits), used, strict=True)]

    def _ended(self) -> None:
        self._unsubscribe({})


Audience = dict[str, dict[ApiSession, None]]
"""Sessions by the owner whose stream they listen to."""


def _signed_text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
