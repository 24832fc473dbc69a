"""The parameters of a request, as text: taken out one by one, so that what is left over can be refused."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from graph.exchange.fixed import parse
from graph.exchange.refusal import Refusal, bad_parameter, missing_parameter

__all__ = ["Params"]

T = TypeVar("T")
_TEXT_MAX = 200
_WHOLE = re.compile(r"-?\d{1,18}", re.ASCII)


class Params:
    """Parameters by name. From JSON, numbers and truth values come as their text."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = {name: _text(name, value) for name, value in given.items() if value is not None}
        self._left = set(self._given)

    def text(self, name: str) -> str:
        """Raises Refusal where it is missing."""
        value = self.optional(name)
        if not value:
            raise missing_parameter(name)
        return value

    def optional(self, name: str) -> str | None:
        """None where it is not given, or empty."""
        self._left.discard(name)
        return self._given.get(name) or None

    def number(self, name: str) -> int:
        """A price or quantity in hundred-millionths, 0 where it is not given. Raises Refusal."""
        value = self.optional(name)
        if value is None:
            return 0
        try:
            return parse(value)
        except ValueError:
            if re.fullmatch(r"\d{1,12}\.\d{9,}", value, re.ASCII):
                raise Refusal(-1111, f"Parameter '{name}' has too much precision.") from None
            raise Refusal(-1100, f"Illegal characters found in parameter '{name}'.") from None

    def whole(self, name: str) -> int | None:
        """None where it is not given. Raises Refusal."""
        value = self.optional(name)
        if value is None:
            return None
        if not _WHOLE.fullmatch(value):
            raise Refusal(-1100, f"Illegal characters found in parameter '{name}'.")
        return int(value)

    def limit(self, usual: int, most: int) -> int:
        """How many rows are wanted. Raises Refusal."""
        value = self.whole("limit")
        if value is not None and value < 1:
            raise bad_parameter("limit")
        return usual if value is None else min(value, most)

    def one_of(self, name: str, choices: Mapping[str, T], refusal: Callable[[], Refusal]) -> T:
        """What a word stands for. Raises Refusal."""
        value = self.text(name)
        if value not in choices:
            raise refusal()
        return choices[value]

    def finish(self) -> None:
        """Raises Refusal where something was sent that nobody has read."""
        if self._left:
            read, sent = len(self._given) - len(self._left), len(self._given)
            raise Refusal(
                -1104, f"Not all sent parameters were read; read '{read}' parameter(s) but was sent '{sent}'."
            )


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | str) and len(text := str(value)) <= _TEXT_MAX:
        return text
    raise bad_parameter(name)
