"""Holdfast's pytest plugin: its fixtures. What they are made of is in `graph.resilience.testing`, with examples.

A module of its own, whose name nobody else has, and which imports nothing of Holdfast before a test asks for a fixture:
pytest loads it in every project of the environment, and a project may have a package of its own that is called `graph`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from graph.resilience.testing import Faults, NetworkGuard
    from graph.resilience.virtual import VirtualClock

__all__ = ["faults", "network_blocked", "virtual_clock"]


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> "Iterator[Faults]":
    """Make fault plans. While a test has it, no retry waits; unless the test also has `virtual_clock`.

    On virtual time waiting costs nothing, and is often what a test is about.
    """
    with _holdfast():
        from graph.resilience.guard import Guard  # noqa: PLC0415 - see above
        from graph.resilience.testing import Faults  # noqa: PLC0415
    if "virtual_clock" in request.fixturenames:
        yield Faults()
    else:
        with Guard.testing():
            yield Faults()


@pytest.fixture
def virtual_clock() -> "Iterator[VirtualClock]":
    """Run coroutines on a loop whose clock jumps: `virtual_clock.run(coroutine)`; `now` is its time in seconds.

    Synchronous callees of guards run inline, and a wait that can never end is an error, "simulation deadlock". For
    plain test functions; the seed is 0, and `VirtualClock(seed)` is for tests that try many.
    """
    with _holdfast():
        from graph.resilience.virtual import VirtualClock  # noqa: PLC0415
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def network_blocked() -> "Iterator[NetworkGuard]":
    """Refuse every connection, datagram and name lookup that would leave this machine, until the test is over.

    Loopback and Unix sockets stay open. It sees what goes through Python's `socket` module: asyncio and the usual
    clients do; uvloop, and libraries with sockets of their own in C, do not.
    """
    with _holdfast():
        from graph.resilience.testing import blocked_network  # noqa: PLC0415
    with blocked_network() as guard:
        yield guard


@contextmanager
def _holdfast() -> Iterator[None]:
    """Import Holdfast in this block: where that is not what is found, the test fails with one line."""
    try:
        yield
    except ImportError as error:
        found = getattr(sys.modules.get((error.name or "").partition(".")[0]), "__file__", None)
        raise pytest.fail.Exception(
            f"a fixture of Holdfast was asked for, and cannot be made: {error} (found: {found}); the test was not run; "
            "run it where no other package named `graph` or `agents` comes before Holdfast's",
            pytrace=False,
        ) from None
