"""Signatures, against the exchange's own documented example, and against the simulated exchange's."""

from pydantic import SecretStr

from graph.exchange.signing import signature_of
from graph.spot.signing import Signer

# The example of Binance's documentation of signed requests.
KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"  # noqa: S105 - which everybody knows
SIGNED = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
ORDER = {
    "symbol": "LTCBTC",
    "side": "BUY",
    "type": "LIMIT",
    "timeInForce": "GTC",
    "quantity": "1",
    "price": "0.1",
    "recvWindow": 5000,
    "timestamp": 1499827319559,
}
SIGNER = Signer(SecretStr(KEY), SecretStr(SECRET))


def test_the_documented_example():
    assert SIGNER.query(ORDER).endswith(f"&timestamp=1499827319559&signature={SIGNED}")
    assert SIGNER.headers == {"X-MBX-APIKEY": KEY}


def test_by_websocket_names_are_sorted_and_the_key_is_signed():
    message = SIGNER.message({"timestamp": 5, "recvWindow": 7})
    assert message["signature"] == signature_of(SECRET, f"apiKey={KEY}&recvWindow=7&timestamp=5")


def test_neither_is_shown():
    assert KEY not in repr(SIGNER)
    assert SECRET not in repr(SIGNER)
    assert SECRET not in str(SIGNER.message({})) + SIGNER.query({})
