"""The control messages of a market stream connection: SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, properties."""

from collections.abc import Sequence
from typing import Any

import msgspec

from graph.exchange.agenda import Agenda
from graph.exchange.connection import Connection
from graph.exchange.hub import STREAMS_MAX, Hub, encode
from graph.exchange.menu import FaultKind, FaultMenu

__all__ = ["BadControl", "StreamSession"]

_MESSAGES_A_SECOND = 5
_NAME_CHARS_MAX = 64
_METHODS = "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, `GET_PROPERTY`"


class _Control(msgspec.Struct):
    method: str
    params: list[Any] = []
    id: int | str | None = None


_read = msgspec.json.Decoder(_Control).decode


class BadControl(Exception):
    """A control message that cannot be followed."""


class StreamSession:
    """One connection's subscriptions. `wrapped`: messages come as `{"stream": ..., "data": ...}`."""

    def __init__(self, connection: Connection, hub: Hub, agenda: Agenda, menu: FaultMenu, *, wrapped: bool) -> None:
        self._connection = connection
        self._hub = hub
        self._agenda = agenda
        self._menu = menu
        self._wrapped = wrapped
        self._streams: dict[str, None] = {}
        self._second, self._count = 0, 0
        connection.heard = self._heard
        connection.on_end = self._ended

    def subscribe(self, streams: Sequence[str]) -> None:
        """Raises BadControl for too many, or what is no name."""
        for stream in streams:
            if not isinstance(stream, str) or not 0 < len(stream) <= _NAME_CHARS_MAX:
                raise BadControl("Invalid request: stream name is invalid")
        if len(self._streams.keys() | set(streams)) > STREAMS_MAX:
            raise BadControl(f"Invalid request: too many streams; at most {STREAMS_MAX}")
        for stream in streams:
            self._streams[stream] = None
            self._hub.subscribe(self._connection, stream, wrapped=self._wrapped)

    def _heard(self, frame: bytes) -> None:
        if self._too_often():
            self._connection.close(1008)
            return
        try:
            control = _read(frame)
        except msgspec.ValidationError as error:
            self._refuse(2, f"Invalid request: {error}", None)
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._refuse(3, "Invalid JSON: expected value at line 1 column 1", None)
            return
        try:
            answer = self._follow(control)
        except BadControl as error:
            self._refuse(2, str(error), control.id)
            return
        if answer is not ...:
            self._connection.reply("control", encode({"result": answer, "id": control.id}))

    def _too_often(self) -> bool:
        second = self._agenda.now_ms // 1_000
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count > _MESSAGES_A_SECOND

    def _follow(self, control: _Control) -> Any:
        """The result; an ellipsis for no answer at all."""
        if control.method == "SUBSCRIBE":
            point = str(control.params[0])[:_NAME_CHARS_MAX] if control.params else ""
            if self._menu.strikes(FaultKind.MUTE, point, self._agenda.now_ns / 1e9):
                return ...
            self.subscribe(control.params)
            return None
        if control.method == "UNSUBSCRIBE":
            for stream in map(str, control.params):
                self._streams.pop(stream, None)
                self._hub.unsubscribe(self._connection, stream)
            return None
        if control.method == "LIST_SUBSCRIPTIONS":
            return list(self._streams)
        if control.method in {"GET_PROPERTY", "SET_PROPERTY"}:
            return self._property(control)
        raise BadControl(f"Invalid request: unknown variant `{control.method[:40]}`, expected one of {_METHODS}")

    def _property(self, control: _Control) -> Any:
        values = control.params[1:]
        if control.params[:1] != ["combined"]:
            raise BadControl("Unknown property")
        if control.method == "GET_PROPERTY":
            return self._wrapped
        if len(values) != 1 or not isinstance(values[0], bool):
            raise BadControl("Invalid value type: expected Boolean")
        self._wrapped = values[0]
        for stream in self._streams:
            self._hub.subscribe(self._connection, stream, wrapped=self._wrapped)
        return None

    def _refuse(self, code: int, text: str, number: int | str | None) -> None:
        self._connection.reply("control", encode({"code": code, "msg": text, "id": number}))

    def _ended(self) -> None:
        for stream in self._streams:
            self._hub.unsubscribe(self._connection, stream)
        self._streams.clear()
