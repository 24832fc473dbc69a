"""What can go wrong with a database, in words that are the same for every kind of database."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from agents.errors import StorageError

__all__ = ["LOCKED_S_MAX", "Kind", "Trouble", "legible"]

P = ParamSpec("P")
T = TypeVar("T")

LOCKED_S_MAX = 30.0
"""How long a writer waits for the one before it, whichever process that is in."""


class Kind(Enum):
    """What can be done about it: what is LOCKED, STARTING or AWAY may be waited for.

    AWAY: there is no connection, or no longer; STARTING: a server that says that it will be there soon; VALUE: what
    was given cannot be kept by this database; DAMAGED: what is there is not what was written, or no database; UNSURE:
    as OTHER, but what was being committed may have been kept.
    """

    LOCKED = "locked"
    STARTING = "starting"
    AWAY = "away"
    VALUE = "value"
    DAMAGED = "damaged"
    UNSURE = "unsure"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Trouble:
    """`fact` follows the database's name, `remedy` what became of the work."""

    kind: Kind
    fact: str
    remedy: str


_ILLEGIBLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def legible(what: str, name: Callable[[Any], object]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator for what reads a row, its first argument: one that cannot be what was written is named.

    `what` the row is of, and its `name`. The reader may raise whatever a wrong value makes it raise: nothing comes of
    the row then but a StorageError.
    """

    def reader(read: Callable[P, T]) -> Callable[P, T]:
        @wraps(read)
        def reading(*given: P.args, **more: P.kwargs) -> T:
            try:
                return read(*given, **more)
            except _ILLEGIBLE as error:
                raise _damaged(what, name(given[0]), error) from error

        return reading

    return reader


def _damaged(what: str, name: Any, error: Exception) -> StorageError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return StorageError(
        f"a stored {what} is damaged ({name!r:.80}): {why:.200}; it was not used; restore the database from a backup"
    )
