"""Requests: what is sent once, what may be sent again, and what an answer means."""

import asyncio

import pytest

from agents.errors import BrokerUnavailable, LinkLost
from graph.spot.answers import PriceAnswer, Refused
from tests.graph.spot.stub import BEGIN_MS, KEY, SECRET, Script, play, refusal, reply

PRICE = {"symbol": "A", "price": "1"}
OFF = refusal(-1021, "Timestamp for this request is outside of the recvWindow.")


def ask(desk):
    return desk.rest.ask("x", PriceAnswer, 5, symbol="A")


async def place(desk):
    return await desk.rest.place("order", PriceAnswer, symbol="A")


def test_a_signed_request():
    async def story(desk):
        await ask(desk)
        return desk.script.asked

    first, second = play(story, Script(x=reply(PRICE)))
    assert (first.path, first.headers, first.query) == ("time", {}, "")
    assert (second.method, second.headers) == ("GET", {"X-MBX-APIKEY": KEY})
    names = [part.partition("=")[0] for part in second.query.split("&")]
    assert names == ["symbol", "recvWindow", "timestamp", "signature"]
    assert SECRET not in second.query


def test_what_is_for_all_to_see_is_not_signed():
    async def story(desk):
        await desk.rest.look("x", PriceAnswer, 5, symbol="A")
        return desk.script.asked

    (only,) = play(story, Script(x=reply(PRICE)))
    assert (only.query, only.headers) == ("symbol=A", {})


def test_a_clock_that_is_off_is_corrected_before_anything_is_signed():
    async def story(desk):
        await ask(desk)
        return desk.time.offset_ns, desk.script.asked[1].query

    offset, query = play(story, Script(x=reply(PRICE)), skew_s=-3_600.0)
    expected = BEGIN_MS + 3_600_000 - 1_700_001_000_000  # the stub's exchange stands still at its beginning
    assert offset == expected * 1_000_000
    assert f"timestamp={BEGIN_MS}" in query


def test_a_read_whose_clock_was_off_is_sent_again_at_once_with_the_time_corrected():
    async def story(desk):
        await ask(desk)
        return desk.script.paths()

    assert play(story, Script(x=[OFF, reply(PRICE)])) == ["time", "x", "time", "x"]


def test_but_once_only():
    async def story(desk):
        with pytest.raises(Refused):
            await ask(desk)
        return desk.script.paths()

    assert play(story, Script(x=OFF)) == ["time", "x", "time", "x"]


def test_an_order_is_sent_once_whatever_is_answered():
    async def story(desk):
        with pytest.raises(Refused) as no:
            await place(desk)
        assert no.value.later
        await desk.rest.measure()
        return desk.script.paths()

    assert play(story, Script(order=OFF)) == ["order", "time"]


@pytest.mark.parametrize(
    "answer",
    [
        LinkLost("it broke off"),
        reply(b"<html>", 503),
        refusal(-1008, status=503),
        refusal(-1006, status=500),
        refusal(-1007, status=504),
        refusal(-1007, status=400),
        refusal(-1006, status=400),
        refusal(-1000, status=400),
        refusal(-2010, status=500),
        reply(b"<html>", 403),
        reply(b'{"code": "x"}', 400),
        reply(b"", 302),
        reply(b'{"symbol": "A", "pri', 200),
        reply(b"\xff\xfe", 200),
        reply(b"[" * 100_000, 200),
        reply([], 200),
        reply({"symbol": "A", "price": 1}, 200),
    ],
)
def test_what_says_nothing_of_what_was_done(answer):
    async def story(desk):
        with pytest.raises(BrokerUnavailable) as told:
            await place(desk)
        return str(told.value)

    told = play(story, Script(order=answer))
    assert "\n" not in told
    assert SECRET not in told


@pytest.mark.parametrize(
    ("answer", "code", "later"),
    [
        (refusal(-2010), -2010, False),
        (refusal(-1013), -1013, False),
        (refusal(-2015, status=401), -2015, False),
        (refusal(-1021), -1021, True),
        (refusal(-1003, status=429), -1003, True),
        (refusal(-1003, status=418), -1003, True),
        (refusal(-1015, status=429), -1015, True),
        (reply(b"<html>", 429), -1003, True),
    ],
)
def test_a_no_is_a_no(answer, code, later):
    async def story(desk):
        with pytest.raises(Refused) as no:
            await place(desk)
        return no.value.code, no.value.later

    assert play(story, Script(order=answer)) == (code, later)


def test_words_of_the_exchange_stay_on_one_line():
    async def story(desk):
        with pytest.raises(Refused) as no:
            await place(desk)
        return str(no.value)

    told = play(story, Script(order=refusal(-2010, "a\nb\x1b[31m" + "x" * 1_000)))
    assert told.isprintable()
    assert len(told) < 220


def test_nobody_waits_for_ever():
    async def story(desk):
        before = desk.clock.now
        with pytest.raises(BrokerUnavailable, match="did not answer order within 10 s"):
            await place(desk)
        return desk.clock.now - before

    assert play(story, Script(order=lambda: asyncio.sleep(1e6))) == 10


def test_many_at_once_measure_the_time_once():
    async def story(desk):
        await asyncio.gather(*(ask(desk) for _ in range(5)))
        return desk.script.paths().count("time")

    assert play(story, Script(x=reply(PRICE))) == 1


def test_after_a_429_reads_wait():
    async def story(desk):
        with pytest.raises(Refused):
            await ask(desk)
        before = desk.clock.now
        await ask(desk)
        return desk.clock.now - before

    assert play(story, Script(x=[refusal(-1003, status=429, retry_after=7), reply(PRICE)])) == 7


def test_what_was_asked_for_is_weighed():
    async def story(desk):
        await desk.rest.measure()
        before = desk.budget.used_weight
        await ask(desk)
        return desk.budget.used_weight - before

    assert play(story, Script(x=reply(PRICE))) == 5
