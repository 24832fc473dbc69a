"""The development server of LangGraph Studio, started for real on loopback and used through its HTTP API."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoints.saver import SqlSaver

pytest.importorskip("langgraph_api", reason="the extra `studio` is not installed: pip install 'holdfast[studio]'")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(tmp_path):
    """Start a server in a folder of its own, with a home of its own; several may follow one another there."""
    environment = os.environ | {
        "HOLDFAST_HOME": str(tmp_path / "home"),
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }

    @contextmanager
    def start():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        langgraph = Path(sys.executable).parent / "langgraph"
        arguments = ["--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
        log = tmp_path / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [langgraph, "dev", "--config", ROOT / "langgraph.json", *arguments],
                cwd=tmp_path,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                base = f"http://127.0.0.1:{port}"
                _wait_until_up(base, process, log)
                yield base
            finally:
                process.terminate()
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    return start


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


def test_runs_in_studio_from_a_symbol_alone_and_survives_a_restart(serve, tmp_path):
    with serve() as server:
        thread, before = _use(server)
    with SqlSaver.open(tmp_path / "home" / "holdfast.db") as saver:  # and not in a file of the server's own
        kept = saver.get_tuple({"configurable": {"thread_id": thread}})
    assert kept.checkpoint["id"] == before["checkpoint"]["checkpoint_id"]
    assert kept.checkpoint["channel_values"]["decision"] == 1
    with serve() as server:
        after = _call(f"{server}/threads/{thread}/state")
        history = _call(f"{server}/threads/{thread}/history", {"limit": 100})
    assert after["values"] == before["values"]
    assert after["checkpoint"]["checkpoint_id"] == before["checkpoint"]["checkpoint_id"]
    assert len(history) > 10, "the states before the last one are there too"


def _use(server):
    """Draw the workflow, decide twice in one thread; gives the thread and its state."""
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
    return thread, _call(f"{server}/threads/{thread}/state")
