"""Virtual time for every async test here: the loop's clock jumps to the next timer, so nothing ever waits."""

import asyncio
import selectors

import pytest

from graph.resilience import FaultPlan, GuardEvent


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual and begins at 1000 s; synchronous calls run inline, for threads cannot be seen by it."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(selectors.DefaultSelector())
        self._poll = self._selector.select
        self._selector.select = self._select
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._now

    def run_in_executor(self, executor, func, *args):
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future

    def _select(self, timeout):
        ready = self._poll(0)
        if ready or timeout == 0:
            return ready
        if not self._scheduled:
            raise RuntimeError("simulation deadlock: nothing is ready and nothing is scheduled")
        self._now = max(self._now, self._scheduled[0]._when)
        return []


def pytest_asyncio_loop_factories(config, item):
    """Virtual time, unless the test asks for a real loop: `@pytest.mark.asyncio(loop_factories=["real"])`."""
    marker = item.get_closest_marker("asyncio")
    if marker is not None and "real" in marker.kwargs.get("loop_factories", ()):
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}


class Recorder(list[GuardEvent]):
    """An observer that keeps what it hears."""

    def __call__(self, event: GuardEvent) -> None:
        self.append(event)

    def of(self, kind):
        return [event for event in self if type(event) is kind]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self]


@pytest.fixture
def heard() -> Recorder:
    return Recorder()


@pytest.fixture
def now():
    """The running loop's virtual time."""
    return lambda: asyncio.get_running_loop().time()


@pytest.fixture(params=["inline", "chain"])
def path(request):
    """Guard arguments that send the first attempt along the inlined way, or along the full one."""
    return {} if request.param == "inline" else {"faults": FaultPlan()}
