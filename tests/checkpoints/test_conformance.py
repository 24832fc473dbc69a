"""The entry exam of every LangGraph checkpointer, all of its capabilities."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from checkpoints.saver import SqlSaver

_TESTS = 81


@pytest.mark.parametrize("target", ["saver.db", ":memory:"])
async def test_every_capability_passes(tmp_path: Path, target: str) -> None:
    @checkpointer_test(name=f"SqlSaver on {target}")
    async def savers() -> AsyncIterator[SqlSaver]:
        with SqlSaver.open(target if target == ":memory:" else tmp_path / target) as saver:
            yield saver

    report = await validate(savers)

    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert all(report.results[each.value].passed for each in Capability)
    assert sum(result.tests_passed for result in report.results.values()) == _TESTS
