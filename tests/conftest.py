"""What holds for every test: the settings of whoever runs them stay outside, and no time limit on a busy machine.

And the two kinds of databases, for tests that must come out alike on both.
"""

import os

import pytest
from hypothesis import settings

from tests.postgres import Server

settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")

_FOR_TESTS = {"HOLDFAST_DATA", "HOLDFAST_SIM_RUNS"}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """No HOLDFAST_ variable of the environment reaches a test, or a process that it starts."""
    for name in set(os.environ) - _FOR_TESTS:
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server():
    """A Postgres server for the whole session; where there is none, the tests that want it are skipped."""
    running = Server(durable=False)
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    """Where an empty database is: first an SQLite file, then Postgres."""
    if request.param == "sqlite":
        yield str(tmp_path / "test.db")
        return
    server = request.getfixturevalue("server")
    yield (url := server.fresh())
    server.drop(url)
