"""Members as their guards call them."""

import asyncio
import threading

import pytest

from agents.domain import Finding
from agents.errors import ConfigError, UnusableAnswer, is_retryable
from agents.research import DEFAULT_MEMBERS, Member
from graph.config import load_settings
from graph.feed import SimulatedFeed
from graph.swarm import ask, is_finding_of, stand_in, swarm

VIEW = SimulatedFeed(7).view("SIM")


class Analyst:
    def __init__(self, name, answer):
        self.name = name
        self.answer = answer

    def __call__(self, view):
        return self.answer


class AsyncAnalyst(Analyst):
    async def __call__(self, view):
        await asyncio.sleep(0)
        return self.answer


async def asked(member):
    answer = ask(member)(VIEW)
    return await answer if asyncio.iscoroutine(answer) else answer


@pytest.mark.parametrize("kind", [Analyst, AsyncAnalyst])
async def test_a_finding_passes_and_anything_else_says_what_is_wrong(kind):
    good = Finding("mine", 0.5, 0.5, "because")
    assert await asked(Member(kind("mine", good), required=True)) == good
    with pytest.raises(UnusableAnswer, match=r"analyst mine returned dict .* and not a Finding.*return agents.domain"):
        await asked(Member(kind("mine", {"stance": 1}), required=True))
    with pytest.raises(UnusableAnswer, match=r"a finding named 'other'.*Finding\('mine'") as caught:
        await asked(Member(kind("mine", Finding("other", 0.5, 0.5, "because")), required=True))
    assert not is_retryable(caught.value), "asking again does not mend a mistake in the code"


async def test_built_in_rules_are_run_where_they_are_asked():
    here = threading.get_ident()
    member = DEFAULT_MEMBERS[0]
    seen = []

    class Watched:
        name = member.name

        def __call__(self, view):
            seen.append(threading.get_ident())
            return member.analyst(view)

    await ask(Member(Watched(), required=True, quick=True))(VIEW)
    assert seen == [here]


def test_who_stands_in_answers_under_the_other_name():
    answer = stand_in("headlines", "trend")(VIEW)
    assert answer.analyst == "headlines"
    assert answer.rationale == DEFAULT_MEMBERS[0].analyst(VIEW).rationale
    assert is_finding_of("headlines")(answer)
    assert not is_finding_of("trend")(answer)
    assert not is_finding_of("headlines")(None)
    with pytest.raises(ConfigError, match="'nobody' is no built-in analyst"):
        stand_in("headlines", "nobody")


@pytest.mark.parametrize(
    ("required", "optional", "message"),
    [
        ((), (), "the swarm has no members"),
        (("trend", "trend"), (), "two members or nodes named 'trend'"),
        (("trend",), ("trend",), "two members or nodes named 'trend'"),
        (("trand",), (), "'trand' is no built-in analyst.*there are trend"),
        ((f"{__name__}:STRATEGY",), (), "two members or nodes named 'strategy'"),
    ],
)
def test_swarms_that_cannot_be(required, optional, message):
    with pytest.raises(ConfigError, match=message):
        swarm(load_settings(required=required, optional=optional))


STRATEGY = Analyst("strategy", None)


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("awaits", [True, False])
async def test_an_analyst_that_ends_its_program_ends_neither_us_nor_the_others(error, awaits):
    class Ending:
        name = "ending"

        def __call__(self, view):
            raise error

    class EndingLater:
        name = "ending"

        async def __call__(self, view):
            raise error

    with pytest.raises(UnusableAnswer, match=f"analyst ending raised {type(error).__name__}"):
        await asked(Member(EndingLater() if awaits else Ending(), required=True))


async def test_a_cancellation_of_ours_is_obeyed():
    began = asyncio.Event()

    class Waiting:
        name = "waiting"

        async def __call__(self, view):
            began.set()
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(asked(Member(Waiting(), required=True)))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_finding_of_another_class_is_none():
    class Richer(Finding):
        pass

    with pytest.raises(UnusableAnswer, match="returned Richer"):
        ask(Member(Analyst("mine", Richer("mine", 0.5, 0.5, "because")), required=True))(VIEW)
