"""One connection: kept alive, and everything that can go wrong with what it sends."""

import json
from random import Random

import pytest

from graph.exchange.agenda import Agenda
from graph.exchange.connection import Connection
from graph.exchange.menu import ExchangeFault, FaultMenu
from tests.graph.exchange.conftest import Wire

SECOND = 1_000_000_000
FRAMES = [b'{"n":%d}' % number for number in range(1, 7)]


class Line:
    """A connection with a plan of faults, on a time that is moved by hand."""

    def __init__(self, *faults, lifetime=86_400.0):
        self.agenda, self.wire = Agenda(SECOND), Wire()
        menu = FaultMenu([ExchangeFault(**each) for each in faults], seed=5)
        self.menu = menu
        self.connection = Connection(self.wire, self.agenda, menu, Random(5), lifetime)  # noqa: S311 - no secret
        self.ended = []
        self.connection.on_end = lambda: self.ended.append(self.agenda.now_ns / SECOND - 1)

    def go(self, seconds):
        self.agenda.run(self.agenda.now_ns + round(seconds * SECOND))

    def send(self, frames=FRAMES, point="a"):
        for frame in frames:
            self.connection.send(point, frame)


def test_frames_go_out_as_they_are():
    line = Line()
    line.send()
    assert line.wire.frames == FRAMES


class TestLife:
    def test_pings_are_answered_and_sent(self):
        line = Line()
        line.connection.ping(b"x")
        for _ in range(4):
            line.go(20)
            line.connection.pong()
        assert line.wire.events == ["pong x", "ping", "ping", "ping", "ping"]

    def test_who_does_not_answer_pings_is_gone_after_a_minute(self):
        line = Line()
        line.go(100)
        assert line.wire.events == ["ping", "ping", "ping", "reset"]
        assert line.ended == [80.0]

    def test_after_a_day_it_is_over(self):
        line = Line(lifetime=30.0)
        line.go(40)
        assert line.wire.events == ["ping", "close 1001"]
        line.send()
        line.connection.close(1001)
        assert line.wire.frames == []
        assert len(line.ended) == 1


class TestFaults:
    def test_a_frame_left_out(self):
        line = Line({"kind": "gap", "nth": 2})
        line.send()
        assert line.wire.frames == FRAMES[:1] + FRAMES[2:]

    def test_a_frame_twice(self):
        line = Line({"kind": "duplicate", "nth": 2})
        line.send()
        assert line.wire.frames == FRAMES[:2] + FRAMES[1:]

    def test_two_frames_in_the_wrong_order(self):
        line = Line({"kind": "reorder", "nth": 2})
        line.send()
        assert line.wire.frames == [FRAMES[0], FRAMES[2], FRAMES[1], *FRAMES[3:]]

    def test_a_late_frame_holds_up_those_behind_it(self):
        line = Line({"kind": "delay", "nth": 2, "seconds": 3.0})
        line.send()
        assert line.wire.frames == FRAMES[:1]
        line.go(2.9)
        assert line.wire.frames == FRAMES[:1]
        line.go(0.2)
        assert line.wire.frames == FRAMES
        line.send(FRAMES[:1])
        assert line.wire.frames[-1] == FRAMES[0]

    def test_what_comes_when_a_late_frame_is_due_comes_after_it(self):
        line = Line({"kind": "delay", "nth": 1, "seconds": 3.0})
        line.agenda.after(3.0, lambda: line.send(FRAMES[1:2]))
        line.send(FRAMES[:1])
        line.go(3)
        assert line.wire.frames == FRAMES[:2]

    def test_damaged_frames(self):
        line = Line({"kind": "corrupt"})
        line.send()
        assert [len(frame) for frame in line.wire.frames] == [len(frame) for frame in FRAMES]
        assert all(damaged != frame for damaged, frame in zip(line.wire.frames, FRAMES, strict=True))
        for damaged, frame in zip(line.wire.frames, FRAMES, strict=True):
            changed = [new for new, old in zip(damaged, frame, strict=True) if new != old]
            assert not any(chr(new).isdigit() for new in changed)

    def test_frames_cut_short(self):
        line = Line({"kind": "truncate"})
        line.send()
        assert all(len(cut) < len(frame) for cut, frame in zip(line.wire.frames, FRAMES, strict=True))

    @pytest.mark.parametrize(("kind", "event"), [("reset", "reset"), ("close", "close 1001")])
    def test_the_end(self, kind, event):
        line = Line({"kind": kind, "nth": 3})
        line.send()
        assert (line.wire.frames, line.wire.events, len(line.ended)) == (FRAMES[:2], [event], 1)

    def test_a_zombie_answers_pings_and_requests_and_sends_no_data(self):
        line = Line({"kind": "zombie", "on": "a", "nth": 2})
        line.send()
        line.connection.ping(b"x")
        line.connection.reply("control", b"{}")
        line.send()
        line.go(20)
        assert line.wire.frames == [FRAMES[0], b"{}"]
        assert (line.wire.events, line.connection.open) == (["pong x", "ping"], True)

    def test_half_open_is_silent_altogether(self):
        line = Line({"kind": "half_open", "on": "a", "nth": 2})
        heard = []
        line.connection.heard = heard.append
        line.send()
        line.connection.ping(b"x")
        line.connection.receive(b"{}")
        line.go(60)
        assert (line.wire.frames, line.wire.events, heard) == (FRAMES[:1], [], [])

    def test_a_shutdown_is_announced(self):
        line = Line({"kind": "shutdown", "nth": 2, "seconds": 5.0})
        line.send(FRAMES[:3])
        assert json.loads(line.wire.frames[1])["e"] == "serverShutdown"
        assert line.wire.frames[2:] == FRAMES[1:3]
        line.go(5)
        assert line.wire.events == ["close 1001"]

    def test_several_at_once(self):
        line = Line({"kind": "duplicate"}, {"kind": "delay", "seconds": 1.0, "nth": 1}, {"kind": "gap", "nth": 2})
        line.send(FRAMES[:3])
        line.go(1)
        assert line.wire.frames == [FRAMES[0], FRAMES[0], FRAMES[2], FRAMES[2]]

    def test_what_is_late_does_not_come_after_the_end(self):
        line = Line({"kind": "delay", "seconds": 3.0})
        line.send()
        line.connection.close(1001)
        line.go(5)
        assert line.wire.frames == []
