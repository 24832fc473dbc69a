"""Moves an exchange on as time goes by: one task that sleeps until something is due."""

import asyncio

from agents.clock import Clock
from graph.exchange.gateway import Exchange

__all__ = ["drive"]


async def drive(exchange: Exchange, clock: Clock) -> None:
    """Advance the exchange whenever something is due, until cancelled. One task drives one exchange."""
    loop = asyncio.get_running_loop()
    while True:
        sooner: asyncio.Future[None] = loop.create_future()
        due_ns = exchange.advance()
        timer = loop.call_later(max(0.0, (due_ns - clock.now_ns()) / 1e9), _wake, sooner)

        def look(sooner: asyncio.Future[None] = sooner, due_ns: int = due_ns) -> None:
            if exchange.agenda.next_ns < due_ns:
                _wake(sooner)

        exchange.on_sooner = look
        try:
            await sooner
        finally:
            timer.cancel()


def _wake(sooner: "asyncio.Future[None]") -> None:
    if not sooner.done():
        sooner.set_result(None)
