"""Where a decision's bars come from: price files or the simulated market, as one `MarketView` for each symbol."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.bars import Bars, read_bars
from agents.domain import MarketView, check_symbol
from agents.errors import ConfigError, HoldfastError
from agents.market import simulate

__all__ = ["Feed", "FileFeed", "NoFeed", "SimulatedFeed", "resolve_data"]

_DAY_NS = 86_400_000_000_000
_REACH_WINDOWS = 8  # closes kept for the others' market index: enough for a peer with eight times as many bars
_UNSAFE = re.compile(r"[/:]")


class Feed(Protocol):
    """Gives the newest window of a symbol. Synchronous, and may read from disk: call it in a thread."""

    def view(self, symbol: str) -> MarketView:
        """Return the last bars of `symbol`.

        Raises:
            InputError: this feed has no bars for the symbol.
        """
        ...


class NoFeed:
    """For decisions that carry their own market view, and need no feed."""

    def view(self, symbol: str) -> MarketView:
        """Raises HoldfastError: there should have been one."""
        raise HoldfastError(f"the run of {symbol} has no market view in its saved state; nothing can be decided on it")


class SimulatedFeed:
    """The simulated market. Same seed, same views; the symbols named at the start are each other's market."""

    def __init__(self, seed: int, window: int = 512, symbols: Sequence[str] = ()) -> None:
        self._seed = seed
        self._window = _checked_window(window)
        self._bars = {symbol: simulate(symbol, seed, window) for symbol in symbols}
        self._peers = _Peers({symbol: _Closes.of(bars) for symbol, bars in self._bars.items()})

    def view(self, symbol: str) -> MarketView:
        """Return the last `window` bars; any symbol has a history.

        Raises:
            InvalidValue: this is no symbol.
        """
        bars = self._bars[symbol] if symbol in self._bars else simulate(symbol, self._seed, self._window)
        return _market_view(symbol, bars, self._peers, "24/7", f"simulated market, seed {self._seed}")

    def notes(self, symbol: str) -> tuple[str, ...]:
        """Return nothing: a simulated history takes nothing for granted."""
        del symbol
        return ()


class FileFeed:
    """Price files, one for each symbol, each read once when the feed is made, so that a bad file stops the start.

    Of each file only the last `window` bars stay in memory, and the closes of the last 8 windows for the others'
    market index. `calendar`: the name of an exchange's calendar (such as `XNYS`), or `auto`: `24/7` for a symbol
    whose history has a bar on a Saturday (UTC), else `24/5`: currencies trade on Sunday evenings.
    """

    def __init__(
        self, files: Mapping[str, Path], window: int = 512, minimum: int = 100, calendar: str = "auto"
    ) -> None:
        """Read the files.

        Raises:
            BadBars: a file is no history of at least `minimum` bars.
            ConfigError: `window` is below 2.
            InvalidValue: a key of `files` is no symbol.
        """
        window = _checked_window(window)
        self._files = {check_symbol(symbol): _File.read(path, window, minimum) for symbol, path in files.items()}
        self._peers = _Peers({symbol: file.closes for symbol, file in self._files.items()})
        self._calendar = calendar

    def view(self, symbol: str) -> MarketView:
        """Return the last `window` bars of the symbol's file, or all of them where it has fewer.

        Raises:
            ConfigError: no file was given for the symbol.
        """
        file = self._file(symbol)
        calendar = file.calendar if self._calendar == "auto" else self._calendar
        return _market_view(symbol, file.tail, self._peers, calendar, str(file.path))

    def notes(self, symbol: str) -> tuple[str, ...]:
        """Return what was taken for granted in the symbol's file, and who is missing in its market index.

        Raises:
            ConfigError: no file was given for the symbol.
        """
        file = self._file(symbol)
        late = self._peers.late(file.tail.close_ns)
        left_out = f"the market index leaves out {', '.join(late)}: no close is known at the first bar of this view"
        return (*file.tail.notes, left_out) if late else file.tail.notes

    def _file(self, symbol: str) -> "_File":
        if symbol not in self._files:
            known = ", ".join(sorted(self._files)[:12]) or "none"
            raise ConfigError(f"no price file was given for {symbol!r:.80} (there are: {known}); give one by --data")
        return self._files[symbol]


@dataclass(frozen=True, slots=True, eq=False)
class _Closes:
    """The closes of one symbol for the index of others: times (m,) int64, and the logarithms of the closes (m,)."""

    close_ns: NDArray[np.int64]
    logs: NDArray[np.float64]

    @classmethod
    def of(cls, bars: Bars, last: int = 0) -> "_Closes":
        """The last `last` closes, or all for 0; copies, so that the rest of the file is let go."""
        return cls(bars.close_ns[-last:].copy(), np.log(bars.close[-last:]))

    def moves(self, times: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Log return from the first of `times` to each, by the last close at or before it; None if it has no first."""
        at = np.searchsorted(self.close_ns, times, side="right") - 1
        return None if at[0] < 0 else self.logs[at] - self.logs[at[0]]


class _Peers:
    """The equal-weight index of the other symbols, for each symbol that asks.

    The mean of the members' log returns, bar by bar, adds up to the mean of their moves since the first bar. The sum
    over all members is made once for each distinct series of times, and each symbol takes its own part out again.
    """

    def __init__(self, closes: Mapping[str, _Closes]) -> None:
        self._closes = dict(closes)
        self._sums: dict[bytes, tuple[NDArray[np.float64], frozenset[str]]] = {}

    def market(self, symbol: str, times: NDArray[np.int64]) -> tuple[float, ...]:
        """The index at `times`, 1.0 at the first; empty where nobody else has a close at the first time."""
        total, members = self._sum(times)
        own = self._closes[symbol].moves(times) if symbol in members else None
        if own is not None:
            total, members = total - own, members - {symbol}
        return tuple(np.exp(total / len(members)).tolist()) if members else ()

    def late(self, times: NDArray[np.int64]) -> tuple[str, ...]:
        """Who is left out, because no close of it is known at the first time."""
        return tuple(sorted(self._closes.keys() - self._sum(times)[1]))

    def _sum(self, times: NDArray[np.int64]) -> tuple[NDArray[np.float64], frozenset[str]]:
        key = times.tobytes()
        if key not in self._sums:  # views of a feed never change, so there are no more keys than symbols
            moves = {name: closes.moves(times) for name, closes in self._closes.items()}
            known = {name: move for name, move in moves.items() if move is not None}
            total = np.sum(list(known.values()), axis=0) if known else np.zeros(len(times))
            self._sums[key] = (total, frozenset(known))
        return self._sums[key]


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """What stays of a price file: the last bars, the closes that others need, and what its whole history told."""

    path: Path
    tail: Bars
    closes: _Closes
    calendar: str

    @classmethod
    def read(cls, path: Path, window: int, minimum: int) -> "_File":
        bars = read_bars(path, max(minimum, 2))
        return cls(path, _tail(bars, window), _Closes.of(bars, _REACH_WINDOWS * window), _calendar(bars.close_ns))


def _tail(bars: Bars, count: int) -> Bars:
    columns = {name: getattr(bars, name)[-count:].copy() for name in ("close_ns", "open", "high", "low", "close")}
    volume = None if bars.volume is None else bars.volume[-count:].copy()
    return Bars(**columns, volume=volume, price_step=bars.price_step, notes=bars.notes)


def _calendar(close_ns: NDArray[np.int64]) -> str:
    weekday = (close_ns // _DAY_NS + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return "24/7" if bool((weekday == 5).any()) else "24/5"


def _market_view(symbol: str, bars: Bars, peers: _Peers, calendar: str, source: str) -> MarketView:
    return MarketView(
        symbol=symbol,
        period_ns=_usual_distance(bars.close_ns),
        close_ns=tuple(bars.close_ns.tolist()),
        open=tuple(bars.open.tolist()),
        high=tuple(bars.high.tolist()),
        low=tuple(bars.low.tolist()),
        close=tuple(bars.close.tolist()),
        volume=() if bars.volume is None else tuple(bars.volume.tolist()),
        market=peers.market(symbol, bars.close_ns),
        price_step=bars.price_step,
        calendar=calendar,
        source=source,
    )


def _usual_distance(close_ns: NDArray[np.int64]) -> int:
    """The median distance of two bars; sorted by hand, since numpy's median loads all of its masked arrays."""
    distances = np.sort(np.diff(close_ns))
    return int(distances[len(distances) // 2])


def _checked_window(window: int) -> int:
    if window < 2:
        raise ConfigError(f"a window of {window} bars has no period; nothing was read; use 2 bars or more")
    return window


# The command line's --symbol and --data


def resolve_data(symbols: Sequence[str], data: Sequence[Path]) -> dict[str, Path]:
    """Pair symbols with price files: one file each in order, or one folder with SYMBOL.csv or SYMBOL.parquet in it.

    In a file's name `/` and `:` of the symbol become `-`: BTC/USD is BTC-USD.csv. Without `data` the answer is empty.

    Raises:
        ConfigError: they do not pair up; one line with what was given and what to do.
        InvalidValue: a symbol is no symbol.
    """
    for symbol in symbols:
        check_symbol(symbol)
        if symbols.count(symbol) > 1:
            raise ConfigError(
                f"--symbol {symbol} is given {symbols.count(symbol)} times; nothing was run; name it once"
            )
    if not data:
        return {}
    if not symbols:
        raise ConfigError(f"--data {_shown(data[0])} has no symbol; nothing was run; name its symbol by --symbol")
    try:
        return _paired(symbols, data)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"--data {_shown(data[0])}: {reason}; nothing was run; check the path and its rights"
        ) from None


def _paired(symbols: Sequence[str], data: Sequence[Path]) -> dict[str, Path]:
    if len(data) == 1 and data[0].is_dir():
        return _in_folder(symbols, data[0])
    if len(data) != len(symbols):
        raise ConfigError(
            f"{len(symbols)} --symbol and {len(data)} --data do not pair up; nothing was run; "
            "give one file for each symbol in the same order, or one folder with SYMBOL.csv files"
        )
    return dict(zip(symbols, data, strict=True))


def _in_folder(symbols: Sequence[str], folder: Path) -> dict[str, Path]:
    taken: dict[Path, str] = {}
    for symbol in symbols:
        path = _file_in_folder(symbol, folder)
        other = taken.setdefault(path, symbol)
        if other != symbol:
            fact = f"{other} and {symbol} would both be read from {_shown(path)}"
            raise ConfigError(f"{fact}; nothing was run; name their files by one --data each")
    return {symbol: path for path, symbol in taken.items()}


def _file_in_folder(symbol: str, folder: Path) -> Path:
    stem = _UNSAFE.sub("-", symbol)
    names = [f"{stem}.csv", f"{stem}.parquet"]
    present = [name for name in names if (folder / name).exists()]
    if len(present) == 1:
        return folder / present[0]
    if present:
        raise ConfigError(f"{_shown(folder)} has both {' and '.join(names)}; nothing was run; keep one of them")
    fact = f"{_shown(folder)} has no {' or '.join(names)}"
    raise ConfigError(f"{fact}; nothing was run; add the file or leave out --symbol {symbol}")


def _shown(path: Path) -> str:
    name = str(path)
    return name if name.isprintable() else repr(name)
