"""Numbers as the exchange keeps and shows them: whole hundred-millionths, which are exact and quick."""

import re

__all__ = ["SCALE", "fee_of", "notional", "parse", "show"]

SCALE = 10**8
_NUMBER = re.compile(r"(\d{1,12})(?:\.(\d{1,20}))?", re.ASCII)


def parse(text: str) -> int:
    """The number that a client wrote, such as `0.015`.

    Raises:
        ValueError: it is no such number, negative, of more than 12 digits, or has decimals beyond the eighth.
    """
    found = _NUMBER.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r:.40} is no number")
    decimals = (found[2] or "").rstrip("0")
    if len(decimals) > 8:
        raise ValueError(f"{text!r:.40} has too many decimals")
    return int(found[1]) * SCALE + int(decimals.ljust(8, "0"))


def show(value: int) -> str:
    """Eight decimals, always: `0.01500000`."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    return f"{sign}{value // SCALE}.{value % SCALE:08d}"


def notional(price: int, quantity: int) -> int:
    """What `quantity` costs; exact where the price step times the quantity step is a whole hundred-millionth."""
    return price * quantity // SCALE


def fee_of(amount: int, bps: int) -> int:
    """The part of an amount that the exchange keeps, in hundredths of a percent, rounded in the client's favour."""
    return amount * bps // 10_000
