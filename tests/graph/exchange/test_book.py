"""Price, then time; and what is noted of every change."""

from hypothesis import given
from hypothesis import strategies as st

from graph.exchange.book import Book
from graph.exchange.orders import Order


def order(number, buy, price, quantity=10):
    return Order(number, "", "X", buy, price, quantity)


def test_the_best_price_of_each_side_and_who_came_first():
    book = Book()
    for number, (buy, price) in enumerate([(True, 9), (True, 10), (True, 10), (False, 12), (False, 11)]):
        book.add(order(number, buy, price))
    assert book.top == (10, 20, 11, 10)
    assert book.bids.front(10).number == 1
    assert (book.bids.depth(2), book.asks.depth(1)) == ([(10, 20), (9, 10)], [(11, 10)])
    assert (list(book.bids.prices()), list(book.asks.prices())) == ([10, 9], [11, 12])


def test_an_empty_book_has_no_best_price():
    assert Book().top == (0, 0, 0, 0)


def test_how_much_stands_before_an_order():
    book = Book()
    orders = [order(number, buy=True, price=10, quantity=number + 1) for number in range(3)]
    for each in orders:
        book.add(each)
    assert [book.bids.ahead(each) for each in orders] == [0, 1, 3]
    book.remove(orders[0])
    assert book.bids.ahead(orders[2]) == 2


def test_a_partial_fill_keeps_the_place_and_a_whole_one_leaves():
    book = Book()
    first, second = order(1, buy=False, price=10), order(2, buy=False, price=10)
    book.add(first)
    book.add(second)
    book.fill(first, 4)
    first.executed = 4
    assert (book.asks.front(10), book.asks.quantity(10)) == (first, 16)
    book.fill(first, 6)
    assert (book.asks.front(10), book.asks.quantity(10)) == (second, 10)
    book.fill(second, 10)
    assert 10 not in book.asks
    assert book.asks.quantity(10) == 0


def test_a_watcher_hears_of_every_level_that_changed_and_of_the_numbers_between():
    book = Book(update=5)
    book.add(order(1, buy=True, price=10))
    changes = book.watch()
    assert changes.first == 7
    late = order(2, buy=True, price=11)
    book.add(late)
    book.remove(late)
    book.add(order(3, buy=False, price=12))
    assert (list(changes.bids), list(changes.asks), book.update) == ([11], [12], 9)
    changes.begin_anew(book.update + 1)
    assert (list(changes.bids), changes.first) == ([], 10)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20), st.integers(1, 9), st.booleans()), max_size=60))
def test_levels_always_add_up_to_their_orders(steps):
    book, resting = Book(), []
    for number, (buy, price, quantity, leave) in enumerate(steps):
        if leave and resting:
            book.remove(resting.pop(quantity % len(resting)))
        else:
            resting.append(order(number, buy, price, quantity))
            book.add(resting[-1])
        for side, half in ((True, book.bids), (False, book.asks)):
            mine = [each for each in resting if each.buy == side]
            expected = {price: sum(each.left for each in mine if each.price == price) for price in range(1, 21)}
            assert dict(half.depth(99)) == {price: left for price, left in expected.items() if left}
            assert half.best == (max if side else min)([each.price for each in mine], default=0)
