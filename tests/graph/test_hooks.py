"""Hooks: called in their order, and whatever they do, the one who calls them goes on."""

import asyncio

import pytest

from agents.errors import ConfigError
from graph.hooks import Hooks
from graph.resilience.virtual import VirtualClock


@pytest.fixture
def hooks():
    return Hooks(("before", "after"), seconds=5.0)


async def test_in_their_order_and_each_with_what_there_is(hooks):
    heard = []

    async def later(*given):
        await asyncio.sleep(0)
        heard.append(("later", given))

    class Object:
        async def __call__(self, *given):
            heard.append(("object", given))

    hooks.add("before", lambda *given: heard.append(("first", given)))
    hooks.add("before", later)
    hooks.add("before", Object())
    hooks.add("after", lambda: heard.append("after"))
    await hooks.fire("before", 1, "x")
    assert heard == [("first", (1, "x")), ("later", (1, "x")), ("object", (1, "x"))]
    assert (hooks.calls, hooks.failures) == ({"before": 3}, {})


async def test_one_that_was_taken_down_is_not_called(hooks):
    heard = []
    remove = hooks.add("before", heard.append)
    hooks.add("before", heard.append)
    remove()
    remove()
    await hooks.fire("before", 1)
    assert heard == [1]


async def test_one_that_takes_itself_down_or_adds_another_disturbs_nobody(hooks):
    heard = []

    def once():
        remove()
        hooks.add("before", lambda: heard.append("new"))

    remove = hooks.add("before", once)
    hooks.add("before", lambda: heard.append("old"))
    await hooks.fire("before")
    await hooks.fire("before")
    assert heard == ["old", "old", "new"]


def test_there_is_no_such_place(hooks):
    with pytest.raises(ConfigError, match="there are before, after"):
        hooks.add("during", print)


async def test_a_failure_is_told_and_the_others_are_called(hooks, caplog):
    told, heard = [], []

    async def failed(name, error):
        told.append((name, type(error)))

    def fails():
        raise ValueError("mine")

    async def fails_later():
        raise KeyError

    async def cancels_itself():
        raise asyncio.CancelledError

    for hook in (fails, fails_later, cancels_itself, lambda: heard.append(1)):
        hooks.add("before", hook)
    await hooks.fire("before", failed=failed)
    assert (told, heard) == ([("before", ValueError), ("before", KeyError), ("before", RuntimeError)], [1])
    assert hooks.failures == {"before": 3}
    assert len(caplog.records) == 3


def test_one_that_hangs_is_given_up_and_not_called_again_before_it_ended(hooks):
    heard = []

    async def hangs():
        heard.append("begun")
        await asyncio.Event().wait()

    async def swallows():
        heard.append("begun")
        try:
            await asyncio.sleep(3_600)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    async def failed(name, error):
        heard.append(str(error))

    async def work():
        loop = asyncio.get_running_loop()
        remove = hooks.add("before", hangs)
        began = loop.time()
        await hooks.fire("before", failed=failed)
        assert loop.time() - began == pytest.approx(5.0)
        await asyncio.sleep(0)
        remove()
        heard.clear()
        hooks.add("before", swallows)
        began = loop.time()
        await hooks.fire("before", failed=failed)
        await hooks.fire("before", failed=failed)
        assert loop.time() - began == pytest.approx(5.0), "the second was not even begun"
        assert [each.rpartition(".swallows ")[2] for each in heard[1:]] == [
            "did not end within 5 s; it was given up",
            "was given up and has not ended yet; it was not called; mend it",
        ]
        await hooks.close()
        assert loop.time() - began == pytest.approx(10.0), "one more moment, and no longer"
        await asyncio.sleep(60)
        heard.clear()
        await hooks.fire("before")
        assert heard == ["begun"]
        await asyncio.sleep(120)

    with VirtualClock() as clock:
        clock.run(work())


async def test_who_is_cancelled_meanwhile_is_cancelled(hooks):
    ended = []

    async def hangs():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    hooks.add("before", hangs)
    firing = asyncio.create_task(hooks.fire("before"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    firing.cancel()
    await asyncio.wait({firing})
    assert firing.cancelled()
    await hooks.close()
    assert ended == [1]


async def test_one_that_fails_after_it_was_given_up_is_logged(caplog):
    hooks = Hooks(("before",), seconds=0.0)

    async def fails_late():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("late") from None

    hooks.add("before", fails_late)
    await hooks.fire("before")
    await hooks.close()
    await asyncio.sleep(0)
    assert "given up failed: ValueError('late')" in caplog.text
