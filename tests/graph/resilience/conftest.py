"""Virtual time for every async test here: the loop's clock jumps to the next timer, so nothing ever waits."""

import asyncio

import pytest

from graph.resilience import FaultPlan, GuardEvent
from graph.resilience.virtual import VirtualLoop


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
