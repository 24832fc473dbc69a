"""The simulated exchange as a process: `python -m graph.exchange --port 9010 --seed 7 [--data FILE] [--faults PLAN]`.

Its first line of output says where it is and what its client's key is, as JSON. It ends with SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from agents.bars import read_bars
from agents.clock import SystemClock
from agents.errors import ConfigError, HoldfastError

try:
    from graph.exchange.gateway import Exchange
    from graph.exchange.menu import FaultMenu
    from graph.exchange.openings import client_of, opening_of
    from graph.exchange.server import serve
except ModuleNotFoundError as missing:  # all that it needs is in one extra
    sys.stderr.write(f"the exchange needs {missing.name}; nothing was started; run: pip install 'holdfast[exchange]'\n")
    sys.exit(2)

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graph.exchange", description="A simulated exchange on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 for one that is free")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; other machines only if you say so")
    parser.add_argument("--seed", type=int, default=0, help="of the market, the key and all chance")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="bars (CSV, Parquet) that BTCUSDT plays, one a minute"
    )
    parser.add_argument("--faults", type=Path, metavar="PLAN", help="a plan of what goes wrong (TOML)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep orders and balances there; else in memory")
    parser.add_argument("--rate", type=float, default=10.0, metavar="N", help="moments of trading a second")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end; gives the exit code."""
    flags = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(flags))
    except HoldfastError as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"{flags.host}:{flags.port} cannot be listened on ({error.strerror}); choose another"
    sys.stderr.write(f"{complaint}\n")
    return 2


async def _run(flags: argparse.Namespace) -> int:
    if not 0 < flags.rate <= 100_000:
        raise ConfigError(f"--rate is {flags.rate}; nothing was started; give a number above 0, 100000 at most")
    if not 0 <= flags.port <= 65_535:
        raise ConfigError(f"--port is {flags.port}; nothing was started; give one up to 65535, or 0 for a free one")
    clock, stop = SystemClock(), asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    with ExitStack() as stack:
        exchange = _exchange(flags, clock, stack)
        async with serve(exchange, clock, host=flags.host, port=flags.port) as port:
            _announce(flags, port)
            await stop.wait()
    return 0


def _exchange(flags: argparse.Namespace, clock: SystemClock, stack: ExitStack) -> Exchange:
    menu = FaultMenu.from_toml(flags.faults) if flags.faults else FaultMenu()
    bars = read_bars(flags.data, 2) if flags.data else None
    journal = None
    if flags.state:
        from graph.exchange.journal import FileJournal  # noqa: PLC0415 - a database only where one is wanted

        journal = FileJournal(flags.state)
        stack.callback(journal.close)
    past = journal.past() if journal else None
    opened = opening_of(flags.seed, clock.now_ns(), bars=bars, past=past, journal=journal, steps=flags.rate)
    return Exchange(opened, clock, menu)


def _announce(flags: argparse.Namespace, port: int) -> None:
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    client, at = client_of(flags.seed), f"{host}:{port}"
    where = {"rest": f"http://{at}", "streams": f"ws://{at}/ws", "api": f"ws://{at}/ws-api/v3"}
    sys.stdout.write(json.dumps({"port": port, **where, "key": client.key, "secret": client.secret}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
