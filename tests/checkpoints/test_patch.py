import operator
import random
from itertools import pairwise

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.patch import apply_patches, make_patch

_SEED = 20260101


def _random_bytes(count: int, seed: int = _SEED) -> bytes:
    return random.Random(seed).randbytes(count)  # noqa: S311 (test data)


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=12),
    st.integers(0, 11),
    st.binary(max_size=80),
    st.integers(0, 30),
)
def test_a_patch_gives_the_new_bytes_back(parts: list[bytes], at: int, put_in: bytes, cut: int) -> None:
    old = b"".join(parts) * 3
    place = sum(map(len, parts[:at]))
    new = old[:place] + put_in + old[place + cut :]

    patch = make_patch(old, new)

    assert patch is None or apply_patches(old, [patch]) == new


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_patch_is_never_longer_than_half_the_new_bytes(old: bytes, new: bytes) -> None:
    patch = make_patch(old, new)

    assert patch is None or (len(patch) <= len(new) // 2 and apply_patches(old, [patch]) == new)


def test_bytes_with_nothing_in_common_make_no_patch() -> None:
    assert make_patch(_random_bytes(50_000, 1), _random_bytes(50_000, 2)) is None


@pytest.mark.parametrize("count", [14, 15, 16, 200, 65_535])
def test_a_list_that_grows_costs_what_it_grew_by(count: int) -> None:
    items = [_random_bytes(40, seed).hex() for seed in range(min(count, 300))] * (count // 300 + 1)
    old, new = ormsgpack.packb(items[:count]), ormsgpack.packb([*items[:count], "one more"])

    patch = make_patch(old, new)

    assert patch is not None
    assert len(patch) < 60
    assert apply_patches(old, [patch]) == new


def test_a_list_whose_items_look_alike_costs_no_more() -> None:
    items = [f"{number * 7919:064x}" * 16 for number in range(300)]
    for count in range(100, 299):
        patch = make_patch(ormsgpack.packb(items[:count]), ormsgpack.packb(items[: count + 1]))
        assert patch is not None
        assert len(patch) < 1_100


def test_changes_in_several_places_cost_only_themselves() -> None:
    state = {"step": 1, "items": [_random_bytes(30, seed).hex() for seed in range(300)], "tail": _random_bytes(3_000)}
    old = ormsgpack.packb(state)
    state["step"] = 70_000
    state["items"] = [*state["items"][:7], *state["items"][8:], "n" * 500]
    new = ormsgpack.packb(state)

    patch = make_patch(old, new)

    assert patch is not None
    assert len(patch) < 700
    assert apply_patches(old, [patch]) == new


def test_a_chain_of_patches_is_followed_through_all_of_them() -> None:
    values = [_random_bytes(2_000, 7)]
    draw = random.Random(_SEED)  # noqa: S311 (test data)
    for _ in range(150):
        last = values[-1]
        at = draw.randrange(len(last))
        values.append(last[:at] + draw.randbytes(draw.randrange(50)) + last[at + draw.randrange(20) :])
    patches = [make_patch(old, new) for old, new in pairwise(values)]

    assert all(patches)
    for length in (1, 2, 77, 150):
        assert apply_patches(values[0], [patch for patch in patches[:length] if patch]) == values[length]


def test_no_patches_leave_the_bytes() -> None:
    assert apply_patches(b"same", []) == b"same"


@pytest.mark.parametrize(
    "spoil",
    [
        operator.itemgetter(slice(-1)),
        operator.itemgetter(slice(5)),
        operator.itemgetter(slice(12)),
        lambda patch: b"",
        lambda patch: patch[:8] + b"\xff" * 12 + patch[20:],
    ],
)
def test_a_damaged_patch_is_refused(spoil: "operator.itemgetter[bytes]") -> None:
    old = _random_bytes(400)
    patch = make_patch(old, old[:200] + b"change" + old[210:])
    assert patch is not None

    with pytest.raises(ValueError, match="patch"):
        apply_patches(old, [spoil(patch)])


def test_a_patch_for_other_bytes_is_refused() -> None:
    old = _random_bytes(400)
    patch = make_patch(old, old + b"more")
    assert patch is not None

    with pytest.raises(ValueError, match="400 bytes follows 399"):
        apply_patches(old[:-1], [patch])


def test_a_value_that_is_in_another_one_several_times_costs_next_to_nothing() -> None:
    view = _random_bytes(30_000)
    tasks = b"".join(b"task %d:" % number + view for number in range(100))

    patch = make_patch(b"task 0:" + view, tasks)

    assert patch is not None
    assert len(patch) < 100 * 60
    assert apply_patches(b"task 0:" + view, [patch]) == tasks


@pytest.mark.parametrize("around", [(b"", b""), (b"input: ", b""), (b"", b"; end"), (b"x" * 60, b"y" * 3_000)])
def test_a_part_of_a_value_costs_next_to_nothing(around: tuple[bytes, bytes]) -> None:
    view = _random_bytes(30_000)
    whole = around[0] + view + around[1]

    for old, new in ((whole, view), (view, whole)):
        patch = make_patch(old, new)
        assert patch is not None
        assert len(patch) < 200 + sum(map(len, around))
        assert apply_patches(old, [patch]) == new


def test_values_of_many_small_parts_are_given_up_in_time() -> None:
    parts = [_random_bytes(40, seed) for seed in range(2_000)]
    old, new = b"".join(parts), b"".join(part + b"%04d" % at for at, part in enumerate(parts))

    patch = make_patch(old, new)

    assert patch is None or len(patch) <= len(new) // 2
