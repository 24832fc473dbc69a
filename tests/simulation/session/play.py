"""One seed: a session of ten minutes, life after life, until it is over; judged by the witness."""

import asyncio
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from agents.clock import ReplayClock
from graph.app import App
from graph.config import Settings, load_settings
from graph.exchange.driver import drive
from graph.resilience import Fault, FaultAction, FaultPlan
from graph.resilience.virtual import VirtualClock
from tests.simulation.session.day import Day
from tests.simulation.session.life import Life
from tests.simulation.session.market import BEGIN_NS, World, open_world
from tests.simulation.session.trouble import Trouble
from tests.simulation.session.witness import CASH, Witness
from tests.simulation.story import MEMORY

__all__ = ["SessionStory", "play"]

_SECONDS_MAX = 3_000.0
_LIVES_MAX = 60
_PAUSE_S = 40.0


class Faults(FaultPlan):
    """A plan that counts how often it strikes."""

    struck = 0

    def draw(self, link: str, now: float) -> list[Fault]:
        found = super().draw(link, now)
        for fault in found:
            self.struck += 1
            if fault.action in {FaultAction.ERROR, FaultAction.HANG}:  # none after it has its turn
                break
        return found


@dataclass(slots=True)
class SessionStory:
    """What became of one seed. `seconds` that were simulated; `ended`: how each life did."""

    seed: int
    perils: list[str]
    seconds: float = 0.0
    ended: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    timeline: list[tuple[float, str, str, str]] = field(default_factory=list)
    digest: str = ""

    @property
    def replay(self) -> str:
        """The command that plays this seed again."""
        return f"python -m tests.simulation session --seed {self.seed}"


def play(seed: int, day: Day | None = None) -> SessionStory:
    """Play one seed; `day` in the place of the one that belongs to it."""
    day = day or Day.of(seed)
    story = SessionStory(seed, day.perils)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, VirtualClock(seed) as clock:
        began = clock.now
        try:
            clock.run(_play(day, story, Path(folder), clock))
        except Exception as error:  # noqa: BLE001 - whatever it is, the seed that found it has to be told
            story.broken.append(f"nothing may be raised, and {type(error).__name__} was: {error}")
        story.seconds = clock.now - began
    told = (story.timeline, story.ended, story.broken)
    story.digest = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    return story


async def _play(day: Day, story: SessionStory, folder: Path, clock: VirtualClock) -> None:
    world = open_world(day, clock)
    trouble = Trouble(day.database, lambda: world.now)
    witness = Witness(day, trouble, lambda: world.now)
    driving = asyncio.create_task(drive(world.exchange, world.time), name="exchange")
    try:
        await _live(world, folder, story, witness, trouble)
    finally:
        driving.cancel()
        _tell(story, world, witness)


async def _live(world: World, folder: Path, story: SessionStory, witness: Witness, trouble: Trouble) -> None:
    day = world.day
    dice = Random(f"{day.seed}/lives")  # noqa: S311 - no secret
    faults = Faults(day.members, seed=day.seed)
    faults.draw("", world.clock.now)  # spans are counted from now on
    settings, run_id, home = _settings(day), "", folder / "1"
    home.mkdir()
    for name, content in _pristine().items():
        (home / name).write_bytes(content)
    sleepers: list[asyncio.Task[None]] = []
    while story.ended[-1:] not in (["over"], ["failed"]):
        life = Life(
            world, home, len(story.ended) + 1, settings=settings, faults=faults, witness=witness, trouble=trouble
        )
        story.ended.append(await life.live(run_id))
        run_id = life.run_id or run_id
        home = life.heir if story.ended[-1] == "killed" else home
        if story.ended[-1] == "paused":
            sleepers.append(asyncio.create_task(_woken(life, _PAUSE_S)))
        if world.now > _SECONDS_MAX or len(story.ended) > _LIVES_MAX:
            witness.wrong(f"it does not come to an end: {story.ended[-5:]}")
            return
        await asyncio.sleep(dice.uniform(0.2, 14.0))
    await asyncio.gather(*sleepers)
    struck = {str(kind): count for kind, count in world.menu.struck.items()}
    struck |= {"faults": faults.struck, "errors of the database": trouble.struck}
    struck |= {what: witness.counts[what] for what in ("messages to the broker", "policy")}
    lost = sum(ended not in {"over", "not begun"} for ended in story.ended)
    witness.conclude(struck, _told(home) | {"refused": witness.refused}, lost=lost)


def _told(home: Path) -> Counter[str]:
    """What is in the log of failures: by kind, and for the broker's guards by subject too."""
    told: Counter[str] = Counter()
    log = home / "failures.log"
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        entry = json.loads(line)
        told[entry["event"]] += 1
        told[f"{entry['event']} {entry.get('subject', '')}"] += 1
    return told


async def _woken(life: Life, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await life.wake()


def _tell(story: SessionStory, world: World, witness: Witness) -> None:
    story.timeline, story.broken = witness.timeline, witness.broken
    story.counts = dict(witness.counts)
    story.reached = witness.reached | {f"ended: {ended}" for ended in story.ended}
    story.reached |= {f"exchange: {kind}" for kind in world.menu.struck}


def _settings(day: Day) -> Settings:
    given: dict[str, Any] = {
        "home": "/",
        "window": 160,
        "policy": "rule",
        "cash": CASH,
        "gate": {"mean_r_min": -100.0, "agreement_min": 0.01, "coverage_min": 0.3, "level_max": 2},
        "strategy": {"stop_atr": 0.7, "stance_min": 0.01, "allow_short": day.allow_short},
    }
    return load_settings(None, **{**given, **day.settings})


@cache
def _pristine() -> Mapping[str, bytes]:
    """The files of a home that was opened once: to make its tables takes longer than a minute of a session."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        settings = load_settings(None, home=Path(folder))
        App.open(settings, clock=ReplayClock(BEGIN_NS), inline=True).close()
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix == ".db"}
