"""Who may ask, and when."""

import pytest

from graph.exchange.accounts import Account
from graph.exchange.refusal import Refusal
from graph.exchange.signing import check_time, client, payload_of, signature_of

ACCOUNTS = {"k": Account("k", "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j")}


def test_the_example_of_the_protocol_s_own_documentation():
    payload = (
        "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
    )
    signature = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    assert signature_of(ACCOUNTS["k"].secret, payload) == signature
    assert client(ACCOUNTS, "k", payload, signature) is ACCOUNTS["k"]


def test_query_and_body_are_signed_as_they_were_sent():
    assert payload_of("b=2&signature=f00&a=%20", "") == "b=2&a=%20"
    assert payload_of("a=1", "c=3&signature=f00") == "a=1c=3"


@pytest.mark.parametrize(
    ("key", "signature", "code"),
    [("", "x", -2014), ("other", "x", -2015), ("k", "", -1102), ("k", "00" * 32, -1022), ("k", "\u00fc", -1022)],
)
def test_everybody_else_is_refused(key, signature, code):
    with pytest.raises(Refusal) as refused:
        client(ACCOUNTS, key, "a=1", signature)
    assert refused.value.code == code


@pytest.mark.parametrize(("sent", "window"), [(0, None), (-5_000, None), (999, None), (-60_000, 60_000)])
def test_within_the_window(sent, window):
    check_time(1_000_000 + sent, window, 1_000_000)


@pytest.mark.parametrize(
    ("sent", "window", "code"),
    [(-5_001, None, -1021), (1_000, None, -1021), (-11, 10, -1021), (0, 60_001, -1131), (0, 0, -1131)],
)
def test_outside_of_the_window(sent, window, code):
    with pytest.raises(Refusal) as refused:
        check_time(1_000_000 + sent, window, 1_000_000)
    assert refused.value.code == code


def test_a_secret_is_not_shown():
    assert ACCOUNTS["k"].secret not in repr(ACCOUNTS["k"])
