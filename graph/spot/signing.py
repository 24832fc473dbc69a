"""Key and signature (HMAC-SHA256). The secret is read where a signature is made, and is in nothing that is shown."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

__all__ = ["Signer"]


class Signer:
    """Signs requests for one account."""

    __slots__ = ("_key", "_secret")

    def __init__(self, key: SecretStr, secret: SecretStr) -> None:
        self._key = key
        self._secret = secret

    @property
    def headers(self) -> Mapping[str, str]:
        """What says whose a REST request is."""
        return {"X-MBX-APIKEY": self._key.get_secret_value()}

    def query(self, params: Mapping[str, Any]) -> str:
        """The query of a REST request, signed as it is sent."""
        text = urlencode(params)
        return f"{text}&signature={self._signature(text)}"

    def message(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a request by WebSocket, signed in the order of their names."""
        whole = {**params, "apiKey": self._key.get_secret_value()}
        text = "&".join(f"{name}={whole[name]}" for name in sorted(whole))
        return {**whole, "signature": self._signature(text)}

    def _signature(self, text: str) -> str:
        return hmac.new(self._secret.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()
