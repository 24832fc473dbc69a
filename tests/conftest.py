"""What holds for every test: the settings of whoever runs them stay outside, and no time limit on a busy machine."""

import os

import pytest
from hypothesis import settings

settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")

_FOR_TESTS = {"HOLDFAST_DATA", "HOLDFAST_SIM_RUNS"}


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """No HOLDFAST_ variable of the environment reaches a test, or a process that it starts."""
    for name in set(os.environ) - _FOR_TESTS:
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)
