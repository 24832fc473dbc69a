"""The workflow for LangGraph Studio: `langgraph.json` names `trade` and `checkpointer`, which its server calls.

The graph is compiled without a checkpointer, as the server wants it; states are saved in the home folder's database by
the same saver as everywhere, so that they survive a restart of the server. Orders, paper broker and timeline are those
of the home folder too. Studio knows a symbol only; its bars come from the simulated market.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from checkpoints.saver import SqlSaver
from graph.app import App
from graph.config import load_settings
from graph.feed import SimulatedFeed
from graph.state import SymbolInput
from graph.swarm import swarm

__all__ = ["checkpointer", "trade"]

SEED = 7

_opening = threading.Lock()
_opened: list[App] = []
_compiled: list[Any] = []


async def trade() -> Any:
    """The compiled trade workflow, whose input form asks for a symbol."""
    return await asyncio.to_thread(_graph)


@asynccontextmanager
async def checkpointer() -> AsyncIterator[SqlSaver]:
    """The saver of the home folder; the server enters this once for each of its event loops."""
    app = await asyncio.to_thread(_app)
    await app.recover()
    yield app.saver


def _app() -> App:
    """The one application of this server, opened when it is first asked for; the server calls from several threads."""
    with _opening:
        if not _opened:
            _opened.append(App.open(load_settings()))
        return _opened[0]


def _graph() -> Any:
    app = _app()
    with _opening:
        if not _compiled:
            settings = app.settings
            feed = SimulatedFeed(SEED, window=settings.window)
            builder = app.trade_builder(settings, feed, swarm(settings), input_schema=SymbolInput)
            _compiled.append(builder.compile())
        return _compiled[0]
