"""A pytest plugin for resilient agents: faults on purpose, time that jumps, and no network. Installed with Holdfast.

    def test_rules_answer_when_the_model_hangs(virtual_clock, faults):
        guard = Guard("model", attempt_timeout=10.0, fallbacks=[rules], faults=faults("model=hang"))
        assert virtual_clock.run(guard(ask_model, view)) == rules(view)
        assert virtual_clock.now > 1030.0                       # three attempts of ten seconds each

    def test_a_guard_that_is_made_elsewhere(faults, virtual_clock):
        with faults.into(my_desk.guard, "model=error@1"):
            assert virtual_clock.run(my_desk.decide()) == "buy"

The fixtures need no other plugin. Beside pytest-asyncio, asynchronous tests may use `faults` and `network_blocked`;
for virtual time they are given `VirtualLoop` in `pytest_asyncio_loop_factories`.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from graph.resilience.faults import Fault, FaultPlan
from graph.resilience.guard import Guard
from graph.resilience.virtual import VirtualClock

__all__ = ["Faults", "NetworkBlocked", "NetworkGuard", "faults", "network_blocked", "virtual_clock"]


class Faults:
    """Makes fault plans of the command line's form, or of `Fault` values: `faults("trend=error:0.3", seed=7)`."""

    def __call__(self, *given: str | Fault, seed: int = 0) -> FaultPlan:
        """Make a plan.

        Raises:
            ConfigError: a text is not a fault.
        """
        made = [each if isinstance(each, Fault) else FaultPlan.parse([each]).faults[0] for each in given]
        return FaultPlan(made, seed=seed)

    def into(self, guard: Guard, *given: str | Fault, seed: int = 0) -> AbstractContextManager[FaultPlan]:
        """Inject into a guard that exists already, for the length of a `with` block; then all is as before.

        Raises:
            ConfigError: a text is not a fault, or no fault is for this guard.
        """
        plan = self(*given, seed=seed)
        plan.check_targets([guard.name])
        return _injected(guard, plan)


@contextmanager
def _injected(guard: Guard, plan: FaultPlan) -> Iterator[FaultPlan]:
    before = guard.use_faults(plan)
    try:
        yield plan
    finally:
        guard.use_faults(before)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    """Make fault plans. While a test has it, no retry waits; unless the test also has `virtual_clock`.

    On virtual time waiting costs nothing, and is often what a test is about.
    """
    if "virtual_clock" in request.fixturenames:
        yield Faults()
    else:
        with Guard.testing():
            yield Faults()


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """Run coroutines on a loop whose clock jumps: `virtual_clock.run(coroutine)`; `now` is its time in seconds.

    Synchronous callees of guards run inline, and a wait that can never end is an error, "simulation deadlock". For
    plain test functions; the seed is 0, and `VirtualClock(seed)` is for tests that try many.
    """
    with VirtualClock() as clock:
        yield clock


class NetworkBlocked(ConnectionRefusedError):
    """A test that has `network_blocked` has tried to leave this machine."""


class NetworkGuard:
    """`refused`: the addresses that were tried, in their order. Assert that it is empty where trying is wrong already.

    An agent takes a refusal as it takes a dead network, and may well have a fallback for that.
    """

    def __init__(self) -> None:
        self.refused: list[Any] = []

    def check(self, address: Any) -> None:
        """Take note of an address that leaves this machine, and refuse it.

        Raises:
            NetworkBlocked: it does.
        """
        if _leaves(address):
            self.refused.append(address)
            raise NetworkBlocked(
                f"this test may not use the network, and tried to reach {address!r}; nothing was sent; "
                "only loopback and Unix sockets are open: put a double in the place of what is there"
            )


@pytest.fixture
def network_blocked(monkeypatch: pytest.MonkeyPatch) -> NetworkGuard:
    """Refuse every connection, datagram and name lookup that would leave this machine, until the test is over.

    Loopback and Unix sockets stay open. It sees what goes through Python's `socket` module: asyncio and the usual
    clients do; uvloop, and libraries with sockets of their own in C, do not.
    """
    guard = NetworkGuard()
    for owner, name, target in _WAYS_OUT:
        monkeypatch.setattr(owner, name, _checked(getattr(owner, name), guard, target))
    return guard


def _checked(call: Callable[..., Any], guard: NetworkGuard, target: Callable[..., Any]) -> Any:
    def checked(*given: Any, **more: Any) -> Any:
        guard.check(target(*given, **more))
        return call(*given, **more)

    return checked


def _peer(_: socket.socket, address: Any) -> Any:
    return address


def _addressee(*given: Any) -> Any:
    """Who a datagram is for; None where the socket is connected, and was checked then."""
    return given[-1] if isinstance(given[-1], tuple) else None


def _looked_up(host: Any = None, *_: Any, **__: Any) -> Any:
    return (host,)


_WAYS_OUT: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (socket.socket, "connect", _peer),
    (socket.socket, "connect_ex", _peer),
    (socket.socket, "sendto", _addressee),
    (socket.socket, "sendmsg", _addressee),
    (socket, "getaddrinfo", _looked_up),
    (socket, "gethostbyname", _looked_up),
    (socket, "gethostbyname_ex", _looked_up),
)


def _leaves(address: Any) -> bool:
    """Whether this is an address of another machine: a tuple with a host that is not this one. A path is local."""
    if not isinstance(address, tuple) or not address:
        return False
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host in {None, "", "localhost"}:
        return False
    try:
        return not ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return True
