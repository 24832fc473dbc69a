"""Where an exchange is: what is no address, or would send the key in clear, is refused."""

import pytest
from pydantic import SecretStr

from agents.errors import ConfigError, InvalidValue
from graph.spot.terms import ExchangeTerms


def test_the_default_has_no_real_money():
    terms = ExchangeTerms()
    assert all("testnet" in address for address in (terms.rest, terms.streams, terms.api))


def test_an_exchange_on_this_machine_needs_no_encryption():
    for host in ("127.0.0.1:9010", "localhost:1", "[::1]:5"):
        ExchangeTerms(rest=f"http://{host}", streams=f"ws://{host}", api=f"ws://{host}/ws-api/v3")


@pytest.mark.parametrize(
    "given",
    [
        {"rest": "http://api.example.com"},
        {"api": "ws://127.0.0.1.example.com/ws-api/v3"},
        {"rest": "ftp://here"},
        {"rest": "https://"},
        {"rest": "https://[broken"},
        {"streams": "stream.example.com"},
        {"symbols": ()},
    ],
)
def test_what_cannot_be(given):
    with pytest.raises(ConfigError, match="nothing was opened"):
        ExchangeTerms(**given)


def test_what_is_no_symbol():
    with pytest.raises(InvalidValue):
        ExchangeTerms(symbols=("BTC USDT",))


def test_key_and_secret_are_not_shown():
    assert "canary" not in repr(ExchangeTerms(key=SecretStr("canary-1"), secret=SecretStr("canary-2")))
