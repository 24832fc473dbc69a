"""What can go wrong with a database, in words that are the same for every kind of database."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["LOCKED_S_MAX", "Kind", "Trouble"]

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
