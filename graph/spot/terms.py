"""Where an exchange is, and who trades there."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr

from agents.domain import check_symbol
from agents.errors import ConfigError

__all__ = ["ExchangeTerms"]

_NONE = SecretStr("")
_SCHEMES = {"rest": ("https", "http"), "streams": ("wss", "ws"), "api": ("wss", "ws")}


@dataclass(frozen=True, slots=True)
class ExchangeTerms:
    """An exchange and an account there; by default the test network of Binance spot, which has no real money.

    `rest`, `streams`: addresses without a path; `api`: that of the WebSocket API, with its path. `key` and `secret`: of
    the account, HMAC. `symbols`: all that the account is traded in.

    Raises:
        ConfigError: an address is none, or the key would go to another machine without encryption.
        InvalidValue: one of the symbols is none.
    """

    rest: str = "https://testnet.binance.vision"
    streams: str = "wss://stream.testnet.binance.vision"
    api: str = "wss://ws-api.testnet.binance.vision/ws-api/v3"
    key: SecretStr = _NONE
    secret: SecretStr = _NONE
    symbols: tuple[str, ...] = ("BTCUSDT",)

    def __post_init__(self) -> None:
        for name, (safe, plain) in _SCHEMES.items():
            address = getattr(self, name)
            scheme, host = _parts(address)
            if scheme not in {safe, plain} or not host:
                raise ConfigError(
                    f"the exchange's {name} is {address!r:.80}; nothing was opened; it begins with {safe}:// and a host"
                )
            if scheme == plain and not _is_here(host):
                raise ConfigError(
                    f"the exchange's {name} is {address!r:.80}, which is not encrypted; nothing was opened; only an"
                    f" exchange on this machine is reached without: use {safe}://"
                )
        object.__setattr__(self, "symbols", tuple(map(check_symbol, self.symbols)))
        if not self.symbols:
            raise ConfigError("the exchange has no symbols; nothing was opened; name what the account is traded in")


def _parts(address: str) -> tuple[str, str]:
    try:
        parts = urlsplit(address)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
