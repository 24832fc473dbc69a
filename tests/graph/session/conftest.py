"""A home for sessions, in memory where there is a place for that."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.graph.session.floor import Home

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a disk has no part here


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        yield Home(Path(folder))
