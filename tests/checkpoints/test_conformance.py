"""The entry exam of every LangGraph checkpointer, all of its capabilities, on every kind of database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from checkpoints.saver import SqlSaver

_TESTS = 81


@pytest.mark.parametrize("kind", ["file", "memory", "postgres"])
async def test_every_capability_passes(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    targets = {"file": tmp_path / "saver.db", "memory": ":memory:"}
    target = request.getfixturevalue("server").fresh() if kind == "postgres" else targets[kind]

    @checkpointer_test(name=f"SqlSaver ({kind})")
    async def savers() -> AsyncIterator[SqlSaver]:
        with SqlSaver.open(target) as saver:
            yield saver

    report = await validate(savers)

    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert all(report.results[each.value].passed for each in Capability)
    assert sum(result.tests_passed for result in report.results.values()) == _TESTS
