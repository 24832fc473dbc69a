from checkpoints import memo
from checkpoints.memo import Memo
from checkpoints.store import digest_of

LONG = "x" * 5_000


class Serializer:
    def __init__(self):
        self.asked = []

    def __call__(self, value):
        self.asked.append(value)
        return "text", repr(value).encode()


def test_a_long_text_is_serialized_once():
    dumps = Serializer()
    each = Memo(dumps)
    first, again = each.named(LONG), each.named(LONG)
    assert first == again == ("text", repr(LONG).encode(), digest_of("text", repr(LONG).encode()))
    assert dumps.asked == [LONG]


def test_what_may_have_changed_is_serialized_again():
    dumps = Serializer()
    each = Memo(dumps)
    growing = ["x" * 5_000]
    before = each.named(growing)
    growing.append("y")
    assert each.named(growing) != before
    array = bytearray(5_000)
    before = each.named(array)
    array[0] = 1
    assert each.named(array) != before


def test_what_looks_the_same_and_is_not_has_its_own_content():
    class Text(str):
        __slots__ = ()

    dumps = Serializer()
    each = Memo(dumps)
    each.named(LONG)
    each.named(Text(LONG))
    assert len(dumps.asked) == 2


def test_it_remembers_few_and_gives_room_back(monkeypatch):
    each = Memo(Serializer())
    for number in range(1_000):
        each.named(f"{number} {LONG}")
    assert len(each._known) == memo._REMEMBERED_MAX
    monkeypatch.setattr(memo, "_REMEMBERED_BYTES_MAX", 12_000)
    each.named(f"last {LONG}")
    assert len(each._known) == 2
    assert each._bytes == sum(len(named[1]) for _, named in each._known.values())
    each.named("z" * 20_000)  # larger than all the room
    assert (each._known, each._bytes) == ({}, 0)
