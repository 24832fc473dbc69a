"""The exchange's own time."""

from graph.exchange.agenda import Agenda


def test_entries_come_in_order_of_time_then_of_setting():
    agenda, seen = Agenda(100), []
    for due, name in ((300, "c"), (200, "a"), (200, "b")):
        agenda.at(due, lambda name=name: seen.append((name, agenda.now_ns)))
    assert agenda.run(250) == 300
    assert (seen, agenda.now_ns) == ([("a", 200), ("b", 200)], 250)
    agenda.run(300)
    assert seen[-1] == ("c", 300)


def test_what_an_entry_sets_for_now_is_done_now():
    agenda, seen = Agenda(0), []
    agenda.at(5, lambda: agenda.after(0.0, lambda: seen.append(agenda.now_ns)))
    agenda.run(10)
    assert seen == [5]


def test_time_never_goes_back():
    agenda = Agenda(1_000)
    agenda.at(10, lambda: None)
    agenda.run(900)
    assert agenda.now_ns == 1_000


def test_a_period_is_kept_on_its_grid():
    agenda, seen = Agenda(130), []
    agenda.every(100, lambda: seen.append(agenda.now_ns))
    agenda.run(450)
    assert seen == [200, 300, 400]


def test_who_was_held_up_for_long_does_not_make_up_for_it():
    second = 1_000_000_000
    agenda, seen = Agenda(0), []
    agenda.every(second // 10, lambda: seen.append(agenda.now_ns))
    agenda.run(3_600 * second)
    assert len(seen) < 20
    agenda.run(3_601 * second)
    assert len(seen) < 40
