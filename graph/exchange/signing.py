"""Who is asking: keys, signatures (HMAC-SHA256) and the time window of a signed request."""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import unquote_plus

from graph.exchange.accounts import Account
from graph.exchange.refusal import Refusal, missing_parameter

__all__ = ["check_time", "client", "payload_of", "signature_of"]

_AHEAD_MS = 1_000
_WINDOW_MS, _WINDOW_MAX_MS = 5_000, 60_000


def signature_of(secret: str, payload: str) -> str:
    """What signs a payload."""
    return hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()


def payload_of(query: str, body: str) -> str:
    """What was signed of a REST request: its parameters as they were sent, without the signature."""
    texts = ("&".join(each for each in part.split("&") if not each.startswith("signature=")) for part in (query, body))
    return "".join(texts)


def client(accounts: Mapping[str, Account], key: str, payload: str, signature: str) -> Account:
    """The account that a signed request is for. Raises Refusal where it is nobody's."""
    if not key:
        raise Refusal(-2014, "API-key format invalid.", 401)
    account = accounts.get(key)
    if account is None:
        raise Refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401)
    if not signature:
        raise missing_parameter("signature")
    if not hmac.compare_digest(signature_of(account.secret, payload).encode(), unquote_plus(signature).encode()):
        raise Refusal(-1022, "Signature for this request is not valid.")
    return account


def check_time(timestamp_ms: int, window_ms: int | None, server_ms: int) -> None:
    """Raises Refusal for a request that is too old, or from the future."""
    window = _WINDOW_MS if window_ms is None else window_ms
    if not 0 < window <= _WINDOW_MAX_MS:
        raise Refusal(-1131, "recvWindow must be less than 60000.")
    if timestamp_ms >= server_ms + _AHEAD_MS:
        raise Refusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if server_ms - timestamp_ms > window:
        raise Refusal(-1021, "Timestamp for this request is outside of the recvWindow.")
