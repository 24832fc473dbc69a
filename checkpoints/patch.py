"""A value as its difference to the one before: what grows or changes a little need not be stored again whole.

A patch is a list of pieces. Each copies a run of the old bytes and then adds some of its own. Two runs are found where
they begin with the same few bytes, near where the last one ended: this catches what serialized state does between two
steps (a list grows at its end and its length changes at its head, a field is replaced, an item is dropped) in one
pass, and gives up early where the values have little in common. It also catches a value that is in another one, and
one that is in it several times, as a part of the state is in the tasks that are sent it.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TypeAlias

__all__ = ["apply_patches", "make_patch"]

_Part: TypeAlias = range | bytes
"""A run of the bytes before, or bytes of a patch's own."""


_HEAD = struct.Struct("<II")  # length of the old bytes, length of the new bytes
_PIECE = struct.Struct("<III")  # where the run starts in the old bytes, its length, length of the bytes that follow
_PIECES_MAX = 64
_PIECE_SIZE_MIN = 4_096
"""A patch may have so many pieces, and one more for as many bytes: bounds how long values are compared in vain."""
_ANCHOR = 24
"""Bytes that must agree before two places count as the same."""
_SKIPS = (1, 2, 3, 4, 5, 8, 16, 32, 64)
"""How many bytes may differ before a run starts again."""
_NEAR = 4_096
_FAR = 65_536
_STEP_MAX = 65_536


def make_patch(old: bytes, new: bytes) -> bytes | None:
    """What turns `old` into `new`; None where that is not at most half as long as `new`."""
    pieces = [_HEAD.pack(len(old), len(new))]
    allowed = len(new) // 2 - _HEAD.size
    at_old = at_new = 0
    for _ in range(_PIECES_MAX + len(new) // _PIECE_SIZE_MIN):
        run = _common(old, at_old, new, at_new)
        after_old, after_new = at_old + run, at_new + run
        next_old, next_new = _next_run(old, after_old, new, after_new)
        own = new[after_new:next_new]
        allowed -= _PIECE.size + len(own)
        if allowed < 0:
            return None
        pieces += (_PIECE.pack(at_old, run, len(own)), own)
        if next_new == len(new):
            return b"".join(pieces)
        at_old, at_new = next_old, next_new
    return None


def apply_patches(old: bytes, patches: Sequence[bytes]) -> bytes:
    """The newest bytes, from the oldest and the patches that followed, in their order.

    The patches are followed backwards: each run is looked up in the value before until it is found in `old` or in a
    patch, and the bytes are put together once. A chain costs what its patches hold, not its length times the value's.

    Raises:
        ValueError: a patch was not made for the bytes before it, or is damaged.
    """
    length = len(old)
    for patch in patches:
        before, after = _lengths(patch)
        if before != length:
            raise ValueError(f"a patch for {before} bytes follows {length} bytes")
        length = after
    parts: list[_Part] = [range(length)]
    for patch in reversed(patches):
        parts = _looked_up(parts, patch)
    new = b"".join(old[part.start : part.stop] if isinstance(part, range) else part for part in parts)
    if len(new) != length:
        raise ValueError(f"the patches make {len(new)} bytes, not {length}")
    return new


def _looked_up(parts: Sequence[_Part], patch: bytes) -> list[_Part]:
    """The same bytes, with each range of the patched value replaced by where the patch took it from."""
    starts: list[int] = []
    sources: list[_Part] = []
    at = 0
    for source in _sources(patch):
        starts.append(at)
        sources.append(source)
        at += len(source)
    found: list[_Part] = []
    for part in parts:
        if isinstance(part, bytes):
            found.append(part)
            continue
        begin = part.start
        index = bisect_right(starts, begin) - 1
        while begin < part.stop and index < len(sources):
            source, offset = sources[index], begin - starts[index]
            piece = source[offset : offset + part.stop - begin]
            found.append(piece)
            begin += len(piece)
            index += 1
    return found


def _lengths(patch: bytes) -> tuple[int, int]:
    if len(patch) < _HEAD.size:
        raise ValueError("the patch has no head")
    before, after = _HEAD.unpack_from(patch)
    return before, after


def _sources(patch: bytes) -> Iterator[_Part]:
    """Where a patch takes its value from: ranges of the bytes before, and bytes of its own; none is empty."""
    at = _HEAD.size
    while at < len(patch):
        if at + _PIECE.size > len(patch):
            raise ValueError("the patch ends in the middle of a piece")
        start, run, own = _PIECE.unpack_from(patch, at)
        at += _PIECE.size
        if run:
            yield range(start, start + run)
        if own:
            yield patch[at : at + own]
        at += own


def _common(old: bytes, at_old: int, new: bytes, at_new: int) -> int:
    """How many bytes are the same from these places on; compared in steps that grow while they agree."""
    limit = min(len(old) - at_old, len(new) - at_new)
    same, step = 0, _ANCHOR
    while same < limit and step:
        step = min(step, limit - same)
        start = at_old + same
        if new.startswith(old[start : start + step], at_new + same):
            same += step
            step = min(2 * step, _STEP_MAX)
        else:
            limit = same + step - 1  # the difference is in this step
            step //= 2
    return same


def _next_run(old: bytes, at_old: int, new: bytes, at_new: int) -> tuple[int, int]:
    """Where both go on alike. Nowhere: the ends of both."""
    for skip in _SKIPS:  # something was replaced by as many bytes, as a length or a count mostly is
        if _find(new, at_new + skip, _ANCHOR, old, at_old + skip) == at_new + skip:
            return at_old + skip, at_new + skip
    for skip in (0, *_SKIPS):  # something was put in: what comes next in the old bytes comes later in the new ones
        found = _find(new, at_new, _NEAR, old, at_old + skip)
        if found >= 0:
            return at_old + skip, found
    for skip in _SKIPS:  # something was taken out or replaced
        found = _find(old, at_old, _NEAR, new, at_new + skip)
        if found >= 0:
            return found, at_new + skip
    found = _find(new, at_new, _FAR, old, at_old)  # something large was put in
    if found >= 0:
        return at_old, found
    for skip in (0, *_SKIPS) if at_old else ():  # the old bytes come once more, as in a list of what has them in it
        found = _find(new, at_new, _NEAR, old, skip)
        if found >= 0:
            return skip, found
    return len(old), len(new)


def _find(where: bytes, at: int, reach: int, other: bytes, at_other: int) -> int:
    """Where the few bytes that stand at a place of the other come next; -1 where they do not."""
    anchor = other[at_other : at_other + _ANCHOR]
    return where.find(anchor, at, at + reach) if len(anchor) == _ANCHOR else -1
