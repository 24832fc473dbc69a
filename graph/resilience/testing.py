"""A test kit for resilient agents: faults on purpose, and no network. `holdfast_pytest` has it as pytest fixtures.

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

__all__ = ["Faults", "NetworkBlocked", "NetworkGuard", "blocked_network"]


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

        So are its breakers: what they count in the block is forgotten, or the next test would find them tripped.

        Raises:
            ConfigError: a text is not a fault, or no fault is for this guard.
        """
        plan = self(*given, seed=seed)
        plan.check_targets([guard.name])
        return _injected(guard, plan)


@contextmanager
def _injected(guard: Guard, plan: FaultPlan) -> Iterator[FaultPlan]:
    before = guard.use_faults(plan)
    states = [(breaker, breaker.snapshot()) for breaker in guard.breakers.values()]
    try:
        yield plan
    finally:
        guard.use_faults(before)
        for breaker, state in states:
            breaker.restore(state)


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


@contextmanager
def blocked_network() -> Iterator[NetworkGuard]:
    """Refuse every connection, datagram and name lookup that would leave this machine, for the length of the block.

    Loopback and Unix sockets stay open, and so do lookups that only read or write numbers. It sees what goes through
    Python's `socket` module: asyncio and the usual clients do; uvloop, and libraries with sockets of their own in C, do
    not.
    """
    guard = NetworkGuard()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, target in _WAYS_OUT:
            patch.setattr(owner, name, _checked(getattr(owner, name), guard, target))
        yield guard


def _checked(call: Callable[..., Any], guard: NetworkGuard, target: Callable[..., Any]) -> Any:
    def checked(*given: Any, **more: Any) -> Any:
        guard.check(target(*given, **more))
        return call(*given, **more)

    return checked


def _peer(_: socket.socket, address: Any) -> Any:
    return address


def _addressee(*given: Any) -> Any:
    """Who `sendto` is for: its last argument."""
    return given[-1]


def _addressee_of_message(*given: Any) -> Any:
    """Who `sendmsg` is for; None where the socket is connected, and was checked then."""
    return given[4] if len(given) > 4 else None


def _looked_up(host: Any = None, *_: Any, **__: Any) -> Any:
    """Whose number is asked for; None where it is given, and only read."""
    return None if _number_of(host) else (host,)


def _known_by_number(host: Any) -> Any:
    return (host,)


def _named(address: Any, flags: int) -> Any:
    """Whose name is asked for; None where the number is wanted, and only written."""
    return None if flags & socket.NI_NUMERICHOST else address


_WAYS_OUT: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (socket.socket, "connect", _peer),
    (socket.socket, "connect_ex", _peer),
    (socket.socket, "sendto", _addressee),
    (socket.socket, "sendmsg", _addressee_of_message),
    (socket, "getaddrinfo", _looked_up),
    (socket, "gethostbyname", _looked_up),
    (socket, "gethostbyname_ex", _looked_up),
    (socket, "gethostbyaddr", _known_by_number),
    (socket, "getnameinfo", _named),
)
"""The event loop's own ways (`getaddrinfo`, `getnameinfo`, `sock_connect`, `sock_sendto`) lead through these."""


def _leaves(address: Any) -> bool:
    """Whether this is an address of another machine: a tuple with a host that is not this one. A path is local."""
    if not isinstance(address, tuple) or not address:
        return False
    if address[0] in {None, "", b"", "localhost", b"localhost"}:
        return False
    number = _number_of(address[0])
    return number is None or not (getattr(number, "ipv4_mapped", None) or number).is_loopback


def _number_of(host: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    text = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
