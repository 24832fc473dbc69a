import asyncio

from graph.resilience import Guard


async def answer():
    return "ok"


async def test_an_observer_that_meets_a_cancelled_future_does_not_cancel_the_call(path, heard):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    guard = Guard("trend", bulkhead=1, observers=[lambda event: future.result(), heard], **path)
    for _ in range(2):
        assert await guard(answer) == "ok"
    assert heard.kinds() == ["AttemptStarted", "AttemptSucceeded"] * 2
