"""What the exchange says no with: the codes and words of Binance's error list, and the HTTP status they come with."""

__all__ = ["Refusal", "bad_parameter", "missing_parameter", "rejected"]


class Refusal(Exception):
    """An answer that is an error. `retry_after`: seconds, where the client is asked to wait."""

    def __init__(self, code: int, text: str, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text
        self.status = status
        self.retry_after = retry_after


def missing_parameter(name: str) -> Refusal:
    return Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def bad_parameter(name: str) -> Refusal:
    return Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")


def rejected(text: str) -> Refusal:
    """The matching engine refused a new order."""
    return Refusal(-2010, text)
