"""What the benchmark of the guard calls: our guard with everything on, and each peer with all it offers.

Most peers offer less than bulkhead, total deadline, fallback, retry, breaker and attempt timeout, and are still
measured against all of ours. "assembled" is what one puts together from the best parts: tenacity's @retry around a
purgatory breaker around asyncio.timeout, the whole in a second asyncio.timeout and a try/except with the fallback.
Back-off is off for everybody. Every peer imports what it is about when it is made: a ModuleNotFoundError says that it
is not installed (the extra `bench` has them all).
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypedDict

from graph.resilience import Breaker, Budget, Guard, Retry

ATTEMPTS = 3
CONCURRENT = 1000
NEVER = 10**9  # failures until a breaker opens, where it must not
DEADLINE, TIMEOUT = 45.0, 10.0
VIEW = {"close": 100.0}

Agent = Callable[[Any], Awaitable[Any]]
Call = Callable[[], Coroutine[Any, Any, Any]]
Build = Callable[[Agent], Awaitable[Call]]

_serial = itertools.count()  # purgatory knows its breakers by name
_factory: list[Any] = []


async def answer(view: Any) -> Any:
    return view


# -- ours


def _full_guard(trips_after: int = 5, attempt_timeout: float = TIMEOUT, **options: Any) -> Guard:
    return Guard(
        "agent",
        deadline=DEADLINE,
        attempt_timeout=attempt_timeout,
        retry=Retry(max_attempts=ATTEMPTS, base_seconds=0, budget=Budget(1.0, NEVER)),
        breaker=Breaker(trips_after, failure_rate=1.0, calls_min=NEVER, slow_seconds=5.0),
        bulkhead=CONCURRENT,
        **options,
    )


async def ours(agent: Agent, **options: Any) -> Call:
    return partial(_full_guard(fallbacks=[answer], **options), agent, VIEW)


async def ours_without_fallback(agent: Agent) -> Call:
    """A call that is refused is then an error."""
    return partial(_full_guard(), agent, VIEW)


async def our_breaker(agent: Agent, *, open_seconds: float = 60.0) -> Call:
    return partial(Guard("agent", retry=None, breaker=Breaker(open_seconds=open_seconds)), agent, VIEW)


# -- peers; each imports what it is about, and is missing where that fails


async def bare(agent: Agent) -> Call:
    return partial(agent, VIEW)


async def one_timeout(agent: Agent) -> Call:
    async def call() -> Any:
        async with asyncio.timeout(TIMEOUT):
            return await agent(VIEW)

    return call


async def assembled(agent: Agent, **options: Any) -> Call:
    from tenacity import retry

    attempt = retry(**_tenacity_options())(await _behind_purgatory(agent, **options))

    async def call() -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                return await attempt()
        except Exception:  # noqa: BLE001 - that is how it is done
            return await answer(VIEW)

    return call


async def assembled_inline(agent: Agent, **options: Any) -> Call:
    """The same with tenacity's `async for attempt`, which is less usual, and quicker."""
    from tenacity import AsyncRetrying

    strategy, inner = _tenacity_options(), await _behind_purgatory(agent, **options)

    async def call() -> Any:
        try:
            async with asyncio.timeout(DEADLINE):
                async for attempt in AsyncRetrying(**strategy):
                    with attempt:
                        return await inner()
        except Exception:  # noqa: BLE001
            return await answer(VIEW)

    return call


def _tenacity_options() -> dict[str, Any]:
    from tenacity import retry_if_exception_type, stop_after_attempt, wait_none

    retry = retry_if_exception_type((ConnectionError, TimeoutError))
    return {"stop": stop_after_attempt(ATTEMPTS), "wait": wait_none(), "retry": retry, "reraise": True}


async def _behind_purgatory(agent: Agent, *, trips_after: int = 5, breakers: Any = None) -> Call:
    import purgatory

    breakers = breakers or purgatory.AsyncCircuitBreakerFactory(default_threshold=trips_after, default_ttl=60)
    name = f"agent-{next(_serial)}"

    async def inner() -> Any:
        async with await breakers.get_breaker(name), asyncio.timeout(TIMEOUT):
            return await agent(VIEW)

    return inner


async def assembled_of_one_factory(agent: Agent) -> Call:
    """All breakers out of one factory, which is then counted once."""
    import purgatory

    if not _factory:
        _factory.append(purgatory.AsyncCircuitBreakerFactory())
    return await assembled(agent, breakers=_factory[0])


async def tenacity(agent: Agent) -> Call:
    from tenacity import retry

    return partial(retry(**_tenacity_options())(agent), VIEW)


async def stamina(agent: Agent) -> Call:
    import stamina as library

    library.instrumentation.set_on_retry_hooks([])
    again = library.retry(on=ConnectionError, attempts=ATTEMPTS, wait_initial=0, wait_max=0, wait_jitter=0)
    return partial(again(agent), VIEW)


async def hyx(agent: Agent, *, trips_after: int = 5) -> Call:
    from hyx.bulkhead import bulkhead
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.fallback import fallback
    from hyx.retry import retry
    from hyx.timeout import timeout

    async def otherwise(_error: Exception) -> Any:
        return VIEW

    @retry(on=ConnectionError, attempts=ATTEMPTS - 1, backoff=0)  # it counts the attempts after the first
    @consecutive_breaker(failure_threshold=trips_after)
    async def attempt() -> Any:
        async with timeout(TIMEOUT):
            return await agent(VIEW)

    @fallback(otherwise)
    @bulkhead(max_concurrency=CONCURRENT, max_capacity=CONCURRENT + 1)
    async def call() -> Any:
        async with timeout(DEADLINE):
            return await attempt()

    return call


async def langchain(agent: Agent) -> Call:
    from langchain_core.runnables import RunnableLambda

    again = RunnableLambda(agent).with_retry(stop_after_attempt=ATTEMPTS, wait_exponential_jitter=False)
    return partial(again.with_fallbacks([RunnableLambda(answer)]).ainvoke, VIEW)


async def purgatory_breaker(agent: Agent, *, open_seconds: float = 60.0) -> Call:
    import purgatory

    breakers = purgatory.AsyncCircuitBreakerFactory(default_threshold=5, default_ttl=open_seconds)

    async def call() -> Any:
        async with await breakers.get_breaker("agent"):
            return await agent(VIEW)

    return call


async def hyx_breaker(agent: Agent, *, open_seconds: float = 60.0) -> Call:
    from hyx.circuitbreaker import consecutive_breaker

    breaker = consecutive_breaker(failure_threshold=5, recovery_time_secs=open_seconds)

    async def call() -> Any:
        async with breaker:
            return await agent(VIEW)

    return call


async def aiobreaker(agent: Agent, *, open_seconds: float = 60.0) -> Call:
    from datetime import timedelta

    from aiobreaker import CircuitBreaker

    breaker = CircuitBreaker(fail_max=5, timeout_duration=timedelta(seconds=open_seconds))
    return partial(breaker.call_async, agent, VIEW)


class State(TypedDict, total=False):
    close: float


async def unguarded_graph(agent: Agent) -> Call:
    return _graph(agent)


async def langgraph(agent: Agent, *, attempt_timeout: float = TIMEOUT) -> Call:
    """LangGraph's own policies; it has no breaker, and its fallback is an error handler."""
    from langgraph.errors import NodeTimeoutError
    from langgraph.types import RetryPolicy

    async def handler(state: State) -> Any:
        return state

    errors = (ConnectionError, TimeoutError, NodeTimeoutError)
    policy = RetryPolicy(max_attempts=ATTEMPTS, initial_interval=0, jitter=False, retry_on=errors)
    return _graph(agent, retry_policy=policy, timeout=attempt_timeout, error_handler=handler)


async def our_graph(agent: Agent, **options: Any) -> Call:
    return _graph(_full_guard(fallbacks=[answer], **options).wrap(agent))


def _graph(node: Callable[..., Any], **policies: Any) -> Call:
    from langgraph.graph import END, START, StateGraph

    async def act(state: State) -> Any:
        return await node(state)

    builder = StateGraph(State)
    builder.add_node("agent", act, **policies)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    return partial(builder.compile().ainvoke, VIEW)
