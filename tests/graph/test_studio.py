"""The development server of LangGraph Studio, started for real on loopback and used through its HTTP API."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("langgraph_api", reason="the extra `studio` is not installed: pip install 'holdfast[studio]'")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    """The base URL of a server of its own, with a home of its own; stopped at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    langgraph = Path(sys.executable).parent / "langgraph"
    environment = os.environ | {
        "HOLDFAST_HOME": str(tmp_path / "home"),
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }
    arguments = ["--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [langgraph, "dev", "--config", ROOT / "langgraph.json", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_until_up(base, process, tmp_path / "server.log")
            yield base
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(base, process, log):
    # The one wait on real time in this suite: another process has to come up, and nothing tells when.
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            return _call(f"{base}/ok")
        except (urllib.error.URLError, ConnectionError):
            try:
                process.wait(timeout=0.25)
            except subprocess.TimeoutExpired:
                continue
    raise AssertionError(f"no answer within a minute: {log.read_text()}")


def _call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_runs_in_studio_from_a_symbol_alone(server):
    assistant = _call(f"{server}/assistants/search", {})[0]
    schema = _call(f"{server}/assistants/{assistant['assistant_id']}/schemas")["input_schema"]
    assert schema["required"] == ["symbol"]
    assert list(schema["properties"]) == ["symbol"]
    drawn = {node["id"] for node in _call(f"{server}/assistants/{assistant['assistant_id']}/graph")["nodes"]}
    assert {"research", "analyst", "synthesis", "strategy", "quality_gate", "execution"} <= drawn

    thread = _call(f"{server}/threads", {})["thread_id"]
    answer = _call(f"{server}/threads/{thread}/runs/wait", {"assistant_id": "trade", "input": {"symbol": "SIM"}})
    assert "__error__" not in answer, answer
    state = _call(f"{server}/threads/{thread}/state")
    assert state["next"] == []
    assert state["values"]["verdict"]["outcome"] == "approve"
    assert [order["status"] for order in state["values"]["orders"]] == ["filled"]

    again = _call(f"{server}/threads/{thread}/runs/wait", {"assistant_id": "trade", "input": {"symbol": "SIM"}})
    assert again["decision"] == 1
    assert again["plan"]["action"] == 0, "the second decision of the thread sees the position of the first"
    assert again["orders"] == []
