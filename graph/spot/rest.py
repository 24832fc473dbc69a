"""Requests to the exchange by REST: signed, weighed, each of them sent once.

A read whose clock was off may be sent again at once, with the time corrected; so may a cancellation. An order is sent
once, whatever is answered.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

from agents.errors import BrokerUnavailable, LinkLost
from graph.spot.answers import CLOCK_IS_OFF, Refused, TimeAnswer, read, read_body
from graph.spot.budget import RateBudget
from graph.spot.server_time import ServerTime
from graph.spot.signing import Signer
from graph.transport import Http, HttpReply

__all__ = ["WINDOW_MS", "Rest"]

T = TypeVar("T")

WINDOW_MS = 5_000
"""How long after its time the exchange takes a request (recvWindow): what is later is never carried out."""
_TRIES = 2


class Rest:
    """The REST interface at `url`; a request that is not answered within `seconds` is given up."""

    def __init__(
        self, http: Http, url: str, *, signer: Signer, time: ServerTime, budget: RateBudget, seconds: float = 10.0
    ) -> None:
        self._http = http
        self._url = f"{url.rstrip('/')}/api/v3/"
        self._signer = signer
        self._time = time
        self._budget = budget
        self._seconds = seconds
        self._measuring = asyncio.Lock()

    async def ask(self, path: str, kind: type[T], weight: int, **params: Any) -> T:
        """Read something of the account.

        Raises:
            Refused: the exchange said no.
            BrokerUnavailable: it did not answer, or may not be asked now.
        """
        return read(path, await self._again("GET", path, params, weight, urgent=False), kind)

    async def look(self, path: str, kind: type[T], weight: int, **params: Any) -> T:
        """Read something that is for all to see. Raises as `ask`."""
        await self._budget.weigh(path, weight)
        return read(path, await self._once("GET", path, params, signed=False), kind)

    async def withdraw(self, path: str, kind: type[T], **params: Any) -> T:
        """Cancel something, which is the same however often it is done. Raises as `ask`."""
        return read(path, await self._again("DELETE", path, params, 1, urgent=True), kind)

    async def place(self, path: str, kind: type[T], **params: Any) -> T:
        """Send an order, once; the budget has been asked before. Raises as `ask`."""
        return read(path, await self._once("POST", path, params, signed=True), kind)

    async def measure(self) -> None:
        """Find out what time it is there, if that is in doubt. Raises as `ask`."""
        async with self._measuring:
            if self._time.doubtful:
                await self._budget.weigh("the time", 1, urgent=True)
                asked_ns = self._time.here_ns()
                body = await self._once("GET", "time", {}, signed=False)
                self._time.measured(asked_ns, read("time", body, TimeAnswer).server_time)

    async def _again(self, method: str, path: str, params: Mapping[str, Any], weight: int, *, urgent: bool) -> bytes:
        """What may be sent twice is, where only the clock was off."""
        for attempt in range(1, _TRIES + 1):
            await self.measure()
            await self._budget.weigh(path, weight, urgent=urgent)
            try:
                return await self._once(method, path, params, signed=True)
            except Refused as no:
                if no.code != CLOCK_IS_OFF or attempt == _TRIES:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _once(self, method: str, path: str, params: Mapping[str, Any], *, signed: bool) -> bytes:
        if signed:
            query = self._signer.query({**params, "recvWindow": WINDOW_MS, "timestamp": self._time.now_ms()})
        else:
            query = urlencode(params)
        sent_ms = self._time.now_ms()
        reply = await self._reply(method, path, query, self._signer.headers if signed else {})
        self._budget.heard(reply, sent_ms)
        try:
            return read_body(path, reply)
        except Refused as no:
            self._time.doubtful |= no.code == CLOCK_IS_OFF
            if no.too_much:
                self._budget.close(reply, no.code)
            raise

    async def _reply(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> HttpReply:
        url = f"{self._url}{path}{'?' if query else ''}{query}"
        try:
            async with asyncio.timeout(self._seconds):
                return await self._http.request(method, url, headers)
        except TimeoutError:
            raise BrokerUnavailable(
                f"the exchange did not answer {path} within {self._seconds:g} s; what became of it is unknown; ask it"
            ) from None
        except LinkLost as error:
            raise BrokerUnavailable(f"the exchange gave no answer to {path}: {error}") from None
