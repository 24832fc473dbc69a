"""Live market data as one stream of events: from an exchange, from a file, or simulated.

events.py       what a stream gives, and what it tells of itself
exchange.py     an exchange's WebSocket streams
connections.py  connections to the same place, one after another
reader.py       one connection
frames.py       from frames to events; nothing in a frame is believed
history.py      bars of the past, by REST
replay.py       files, at any speed
simulated.py    the seeded market of the simulated exchange, without an exchange
"""

from graph.stream.events import (
    Connected,
    Disconnected,
    GapFound,
    MarketEvent,
    MarketStream,
    MessageRefused,
    Reason,
    StreamHealth,
    StreamNotice,
    StreamStale,
)

__all__ = [
    "Connected",
    "Disconnected",
    "GapFound",
    "MarketEvent",
    "MarketStream",
    "MessageRefused",
    "Reason",
    "StreamHealth",
    "StreamNotice",
    "StreamStale",
]
