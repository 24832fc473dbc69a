"""The workflow for LangGraph Studio: `langgraph.json` names `trade`, which the development server calls.

Studio saves the graph's state itself, so the graph is compiled without a checkpointer. Orders, paper broker and
timeline are those of the home folder. Studio knows a symbol only; its bars come from the simulated market.
"""

import asyncio
import threading
from typing import Any

from graph.app import App
from graph.config import load_settings
from graph.feed import SimulatedFeed
from graph.state import SymbolInput
from graph.swarm import swarm

__all__ = ["trade"]

SEED = 7

_opening = threading.Lock()
_opened: list[Any] = []


async def trade() -> Any:
    """The compiled trade workflow, whose input form asks for a symbol."""
    return await asyncio.to_thread(_compiled)


def _compiled() -> Any:
    """The one graph of this server, made when it is first asked for; the server calls from several threads."""
    with _opening:
        if not _opened:
            settings = load_settings()
            feed = SimulatedFeed(SEED, window=settings.window)
            app = App.open(settings)
            builder = app.trade_builder(settings, feed, swarm(settings), input_schema=SymbolInput)
            _opened.append(builder.compile())
        return _opened[0]
