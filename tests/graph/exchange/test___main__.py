"""The exchange as a process of its own."""

import asyncio
import contextlib
import json
import runpy
import signal
import sys

import aiohttp
import pytest

from graph.exchange.signing import signature_of


@contextlib.asynccontextmanager
async def process(*arguments):
    """Start it; gives the process and its first line."""
    command = (sys.executable, "-m", "graph.exchange", *map(str, arguments))
    started = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    try:
        yield started, json.loads(await started.stdout.readline() or b"{}")
    finally:
        if started.returncode is None:
            started.terminate()
        await started.communicate()


async def ask(at, method, path, **params):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{at['rest']}/api/v3/time") as reply:
            params["timestamp"] = (await reply.json())["serverTime"]
        query = "&".join(f"{name}={value}" for name, value in params.items())
        url = f"{at['rest']}/api/v3/{path}?{query}&signature={signature_of(at['secret'], query)}"
        async with session.request(method, url, headers={"X-MBX-APIKEY": at["key"]}) as reply:
            return await reply.json()


ORDER = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "1", "price": "39000"}


async def test_it_says_where_it_is_and_ends_when_it_is_told_to():
    async with process("--seed", 7) as (started, at):
        assert (await ask(at, "POST", "order", **ORDER))["status"] == "NEW"
        started.send_signal(signal.SIGTERM)
        assert await started.wait() == 0


async def test_its_books_outlive_a_kill(tmp_path):
    state = tmp_path / "books.db"
    async with process("--seed", 7, "--state", state) as (started, at):
        await ask(at, "POST", "order", newClientOrderId="me-1", **ORDER)
        started.kill()
        await started.wait()
    async with process("--seed", 7, "--state", state) as (_, at):
        (order,) = await ask(at, "GET", "openOrders")
        account = await ask(at, "GET", "account")
    assert order["clientOrderId"] == "me-1"
    assert {"asset": "USDT", "free": "961000.00000000", "locked": "39000.00000000"} in account["balances"]


async def test_an_address_with_colons_is_one_that_can_be_used():
    async with process("--host", "::1") as (_, at), aiohttp.ClientSession() as session:
        assert (await session.get(f"{at['rest']}/api/v3/ping")).status == 200


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--data", "no-such.csv"), "no-such.csv"),
        (("--faults", "no-such.toml"), "the fault plan no-such.toml cannot be read"),
        (("--rate", "0"), "--rate is 0.0"),
        (("--port", "65536"), "--port is 65536"),
        (("--port", "-1"), "--port is -1"),
        (("--host", "192.0.2.1"), "192.0.2.1:0 cannot be listened on"),
    ],
)
async def test_what_it_cannot_begin_with_is_one_line(arguments, complaint):
    command = (sys.executable, "-m", "graph.exchange", *arguments)
    started = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, error = await started.communicate()
    assert (started.returncode, out, error.count(b"\n")) == (2, b"", 1)
    assert complaint in error.decode()


@pytest.mark.parametrize("missing", ["msgspec", "aiohttp"])
def test_without_its_extra_it_says_what_to_install(monkeypatch, capsys, missing):
    for name in [name for name in sys.modules if name.startswith("graph.exchange.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("graph.exchange", run_name="__main__")
    assert ended.value.code == 2
    told = f"the exchange needs {missing}; nothing was started; run: pip install 'holdfast[exchange]'\n"
    assert capsys.readouterr().err == told
