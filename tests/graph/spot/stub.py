"""An exchange that answers by a list, on virtual time."""

import json
from types import SimpleNamespace

from pydantic import SecretStr

from graph.resilience.virtual import VirtualClock
from graph.spot.budget import RateBudget
from graph.spot.rest import Rest
from graph.spot.server_time import ServerTime
from graph.spot.signing import Signer
from graph.transport import HttpReply
from tests.graph.stream.world import LoopTime

KEY, SECRET = "the-key-0123456789", "canary-secret-9876543210"
BEGIN_MS = 1_700_000_000_000


def reply(content, status=200, **headers):
    """An answer; `content`: JSON, or bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HttpReply(status, body, {name.replace("_", "-"): str(value) for name, value in headers.items()})


def refusal(code, text="no", status=400, **headers):
    return reply({"code": code, "msg": text}, status, **headers)


class Script:
    """Answers by path: a reply, an exception, a list of these one after another, or what a call gives."""

    def __init__(self, **answers):
        self.answers = {"time": lambda: reply({"serverTime": BEGIN_MS})} | answers
        self.asked = []

    async def request(self, method, url, headers):
        path, _, query = url.partition("/api/v3/")[2].partition("?")
        self.asked.append(SimpleNamespace(method=method, path=path, query=query, headers=dict(headers)))
        answer = self.answers[path]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer()
        if hasattr(answer, "__await__"):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def paths(self):
        return [each.path for each in self.asked]


class Desk:
    """What the parts of the broker share."""

    def __init__(self, clock, script, skew_s=0.0):
        self.clock = clock
        self.script = script
        here = LoopTime(clock)
        self.time = ServerTime(SimpleNamespace(now_ns=lambda: here.now_ns() + round(skew_s * 1e9)))
        self.budget = RateBudget(self.time.now_ms)
        self.signer = Signer(SecretStr(KEY), SecretStr(SECRET))
        self.rest = Rest(script, "http://exchange/", signer=self.signer, time=self.time, budget=self.budget)


def play(story, script=None, **more):
    """Run a story of a `Desk` on virtual time."""
    with VirtualClock(1) as clock:
        return clock.run(story(Desk(clock, script or Script(), **more)))
