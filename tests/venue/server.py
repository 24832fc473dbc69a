"""A venue in a process of its own, on loopback, with books of its own, which loses messages by a plan.

It takes one request a connection, a line of JSON, and gives one line back, or none. Like many venues it compares a
client's order id only with orders that are open: one that was filled is executed again when it comes again. With
`idempotent` in a home's plan it never does that.

What is under way is under way in the time that requests tell: a message that is `late` arrives when the first request
comes that was sent after its arrival, and not at all where its receive window has run out by then.
"""

import json
import os
import signal
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

__all__ = ["FAULTS", "WINDOW_S", "Served", "plan"]

WINDOW_S = 60
"""How long a message lives on its way, at most."""
_LATE_S = {"late": 40, "too_late": 70}
FAULTS = ("lose", "unavailable", "garbage", "never", *_LATE_S)
"""What may become of a message: executed, and the answer is lost, or is a 503, or nonsense; not received; on its way
for a while, and for longer than it lives."""

_TABLES = """
CREATE TABLE plan (idempotent INTEGER NOT NULL, faults TEXT NOT NULL, taken INTEGER NOT NULL, now_ns INTEGER NOT NULL);
CREATE TABLE executed (number INTEGER PRIMARY KEY, id TEXT NOT NULL, message TEXT NOT NULL, state TEXT NOT NULL,
    filled TEXT NOT NULL);
CREATE TABLE under_way (number INTEGER PRIMARY KEY, message TEXT NOT NULL, arrives_ns INTEGER NOT NULL)
"""


def plan(folder: Path, faults: tuple[str, ...], now_ns: int, *, idempotent: bool) -> None:
    """Make the venue's books of a home; `faults`: of the messages with orders, in this order, and then none."""
    with closing(sqlite3.connect(folder / "venue.db")) as books:
        books.executescript(_TABLES)
        books.execute("INSERT INTO plan VALUES (?, ?, 0, ?)", (idempotent, json.dumps(faults), now_ns))
        books.commit()


class Served:
    """A context manager: the process, and the port that it listens to."""

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = listening.getsockname()[1]
        self._process = os.fork()
        if not self._process:
            try:
                _serve(listening)
            finally:
                os._exit(1)
        listening.close()
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)


def _serve(listening: socket.socket) -> None:
    """One after another, in the order in which they came: what was sent first is received first."""
    while True:
        connection, _ = listening.accept()
        with closing(connection):
            line = _line(connection)
            answer = None if line is None else _answer(json.loads(line))
            if answer is not None:
                with suppress(OSError):  # whoever asked was killed
                    connection.sendall(answer.encode() + b"\n")


def _line(connection: socket.socket) -> str | None:
    """None from somebody who was killed before it was sent."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            more = connection.recv(65536)
            if not more:
                return None
            data += more
    except OSError:
        return None
    return data.decode()


def _answer(request: Mapping[str, Any]) -> str | None:
    with closing(sqlite3.connect(Path(request["home"]) / "venue.db", isolation_level=None)) as books:
        books.execute("PRAGMA synchronous=OFF")  # this process is not killed
        books.execute("BEGIN IMMEDIATE")
        try:
            return _Venue(books, request).answer()
        finally:
            books.execute("COMMIT")


class _Venue:
    def __init__(self, books: sqlite3.Connection, request: Mapping[str, Any]) -> None:
        self.books = books
        self.request = request
        self.idempotent, faults, self.taken, known_ns = books.execute("SELECT * FROM plan").fetchone()
        self.faults: list[str] = json.loads(faults)
        self.now_ns = max(known_ns, request.get("now_ns", 0))

    def answer(self) -> str | None:
        self.books.execute("UPDATE plan SET now_ns = ?", (self.now_ns,))
        self._let_arrive()
        do = self.request["do"]
        if do == "send":
            return self._send(self.request)
        if do == "cancel":
            cancel = "UPDATE executed SET state = 'cancelled' WHERE id = ? AND state = 'open'"
            self.books.execute(cancel, (self.request["id"],))
        return json.dumps({"now_ns": self.now_ns} if do == "time" else self._report(self.request["id"]))

    def _let_arrive(self) -> None:
        """What is older than its receive window is thrown away, as venues do."""
        due = "SELECT number, message, arrives_ns FROM under_way WHERE arrives_ns <= ? ORDER BY arrives_ns"
        for number, text, arrives_ns in self.books.execute(due, (self.now_ns,)).fetchall():
            message = json.loads(text)
            if arrives_ns <= message["now_ns"] + WINDOW_S * 10**9:
                self._take(message)
            self.books.execute("DELETE FROM under_way WHERE number = ?", (number,))

    def _send(self, message: Mapping[str, Any]) -> str | None:
        fault = self.faults[self.taken] if self.taken < len(self.faults) else ""
        self.books.execute("UPDATE plan SET taken = taken + 1")
        if fault == "never":
            return None
        if fault in _LATE_S:
            arrives_ns = self.now_ns + _LATE_S[fault] * 10**9
            values = (json.dumps(dict(message)), arrives_ns)
            self.books.execute("INSERT INTO under_way (message, arrives_ns) VALUES (?, ?)", values)
            return None
        self._take(message)
        told = {"lose": None, "unavailable": '{"status": 503}', "garbage": "<html>"}
        return told[fault] if fault in told else json.dumps(self._report(message["id"]))

    def _take(self, message: Mapping[str, Any]) -> None:
        """Execute an order, once more where it has been and is not open any more."""
        known = "SELECT state FROM executed WHERE id = ? ORDER BY number DESC LIMIT 1"
        row = self.books.execute(known, (message["id"],)).fetchone()
        if row is not None and (self.idempotent or row[0] == "open"):
            return
        at_once = message["type"] == "market"
        filled = message["quantity"] if at_once else str(Decimal(message["quantity"]) / 2)
        values = (message["id"], json.dumps(dict(message)), "filled" if at_once else "open", filled)
        self.books.execute("INSERT INTO executed (id, message, state, filled) VALUES (?, ?, ?, ?)", values)

    def _report(self, name: str) -> Mapping[str, Any] | None:
        rows = self.books.execute("SELECT * FROM executed WHERE id = ? ORDER BY number", (name,)).fetchall()
        if not rows:
            return None
        trades = [[f"{number}/{lot}", half] for number, *_, filled in rows for lot, half in enumerate(_lots(filled))]
        order = json.loads(rows[-1][2])
        told = {"symbol": order["symbol"], "side": order["side"], "trades": trades}
        return {"state": rows[-1][3], "name": f"v{rows[-1][0]}", **told}


def _lots(filled: str) -> list[str]:
    """Two trades of each order, so that one of them may be heard of without the other."""
    half = Decimal(filled) / 2
    return [str(half), str(Decimal(filled) - half)]
