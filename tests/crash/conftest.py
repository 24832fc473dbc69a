"""What a sweep came to is told at the end of the tests: a promise is worth what it was tried with."""

import pytest

SUMS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(SUMS, []):
        terminalreporter.write_line(f"kill points: {line}")
