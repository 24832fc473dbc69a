"""Settings, from (strongest first) flags, environment variables `HOLDFAST_...`, a TOML file, and the defaults here."""

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from agents.errors import ConfigError
from agents.policy.named import DEMO, NAMED
from agents.quality import GateSettings
from agents.risk import RiskLimits
from agents.strategist import StrategySettings
from checkpoints.engine import open_url, url_of
from graph.paper import PaperTerms
from graph.session_terms import SessionTerms
from graph.spot.terms import ExchangeTerms

__all__ = ["GuardPolicy", "Settings", "limit_sources", "load_settings"]


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """How calls of one node or analyst are guarded; see `graph.resilience` for each. Times are in seconds.

    `deadline` bounds all attempts and fallbacks together, None for no bound: whoever hangs, within a minute somebody
    else has answered, or the run goes on without. A longer `attempt_timeout` needs a longer one. `base_seconds` and
    `max_seconds` are the back-off. The broker is never tried again, whatever stands here.
    """

    attempt_timeout: float = 30.0
    deadline: float | None = 45.0
    max_attempts: int = 3
    base_seconds: float = 1.0
    max_seconds: float = 60.0
    failure_threshold: int = 5
    success_threshold: int = 2
    open_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"a guard's {name} is {value}; nothing can be guarded by it; set a number above 0")


class Settings(BaseSettings):
    """All settings with their defaults.

    `home` holds databases and reports; `database` the URL of a Postgres database, which then takes the place of the
    home's own SQLite file; `concurrency` runs at once; `cash` of a new paper account; `window` bars that
    a decision looks at; `calendar` trading hours, "auto" to tell by the data; `policy` the folder of a bundle, or
    "demo", "rule" or "hold-cash"; `policy_sha256` the hash that the bundle must have (`python -m agents.policy.inspect`
    prints it); `bar_period` seconds from bar to bar of a session that trades bar by bar; `required` and `optional` the
    swarm's members: names of the built-in ones, or `package.module:attribute`; `fallbacks` by member: who answers for
    it, in this order, when it cannot; `broker` where orders go: paper or exchange, one for all of a home's life;
    `paper` the terms of the paper broker; `exchange` where an exchange is, and the account there; `session` the limits
    of a session; `guards` by node, analyst or `broker`.
    """

    model_config = SettingsConfigDict(
        env_prefix="HOLDFAST_", env_nested_delimiter="__", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Path("~/.holdfast")
    database: SecretStr = SecretStr("")
    concurrency: int = Field(default=8, ge=1, le=1000)
    cash: Decimal = Field(default=Decimal(100_000), gt=0)
    window: int = Field(default=512, ge=100, le=100_000)
    calendar: str = "auto"
    policy: str = DEMO
    policy_sha256: str = ""
    bar_period: float = Field(default=60.0, gt=0, le=366 * 86_400)
    required: tuple[str, ...] = ("trend", "breakout", "mean_reversion", "volatility")
    optional: tuple[str, ...] = ("volume", "seasonality", "cross_asset")
    fallbacks: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    strategy: StrategySettings = StrategySettings()
    gate: GateSettings = GateSettings()
    risk: RiskLimits = RiskLimits()
    broker: Literal["paper", "exchange"] = "paper"
    paper: PaperTerms = PaperTerms()
    exchange: ExchangeTerms = ExchangeTerms()
    session: SessionTerms = SessionTerms()
    guards: dict[str, GuardPolicy] = Field(default_factory=dict)

    @field_validator("database")
    @classmethod
    def _check_database(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and "://" not in value.get_secret_value():
            raise ValueError("it is not a URL such as postgresql://user:password@host/name")
        return value

    @field_validator("policy")
    @classmethod
    def _find_policy(cls, value: str) -> str:
        """A folder is made absolute: the run may be resumed from elsewhere."""
        if value in NAMED:
            return value
        if not value.strip() or not value.isprintable():
            raise ValueError(f"it is no folder of a bundle, and none of {', '.join(NAMED)}")
        try:
            return str(Path(value).expanduser().absolute())
        except (RuntimeError, OSError) as error:
            raise ValueError(f"the folder cannot be told: {error}") from None

    @field_validator("policy_sha256")
    @classmethod
    def _check_hash(cls, value: str) -> str:
        if value and not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
            raise ValueError("it is no sha256, which has 64 hexadecimal digits")
        return value.lower()

    @field_validator("risk", mode="before")
    @classmethod
    def _check_risk(cls, value: Any) -> Any:
        """A truth value would become 1; a list of symbols in a variable of the environment comes as one text."""
        if not isinstance(value, Mapping):
            return value
        truths = [name for name, limit in value.items() if isinstance(limit, bool)]
        if truths:
            raise ValueError(f"{truths[0]} is a truth value, and must be a number")
        symbols = value.get("restricted")
        return {**value, "restricted": symbols.replace(" ", "").split(",")} if isinstance(symbols, str) else value

    @field_validator("exchange", mode="before")
    @classmethod
    def _split_symbols(cls, value: Any) -> Any:
        """A list of symbols in a variable of the environment comes as one text."""
        symbols = value.get("symbols") if isinstance(value, Mapping) else None
        return {**value, "symbols": symbols.replace(" ", "").split(",")} if isinstance(symbols, str) else value

    def guard(self, name: str) -> GuardPolicy:
        """The policy for one node, analyst or the broker."""
        return self.guards.get(name, GuardPolicy())

    @property
    def bounded_gate(self) -> GateSettings:
        """The gate's settings; its cap on weights is never wider than the strategist's own."""
        return replace(self.gate, weight_max=min(self.gate.weight_max, self.strategy.weight_max))

    @property
    def folder(self) -> Path:
        """`home` with `~` resolved."""
        return self.home.expanduser()

    @property
    def address(self) -> str | Path:
        """Where the main database is: the URL that was given, which may hold a password, or the file of this home."""
        return self.database.get_secret_value() or self.folder / "holdfast.db"

    @property
    def home_flag(self) -> str:
        """What a command line needs to find this home and its database: nothing where they are found anyway."""
        usual = Path(os.environ.get("HOLDFAST_HOME") or Settings.model_fields["home"].default).expanduser()
        home = "" if self.folder == usual else f" --home {shlex.quote(str(self.home))}"
        return home + self._database_flag()

    def _database_flag(self) -> str:
        """Without the password, which whoever gave it knows."""
        url = self.database.get_secret_value()
        file = self.folder / "holdfast.toml"
        found = os.environ.get("HOLDFAST_DATABASE") or (_read_toml(file).get("database") if file.is_file() else "")
        return "" if url in {"", found} else f" --database {shlex.quote(open_url(url_of(url)))}"

    def of_run(self, kept: Mapping[str, Any], changes: Mapping[str, Any] = MappingProxyType({})) -> "Settings":
        """The settings that a run was started with; only where it is kept and how many run at once are today's.

        `changes` (see `shaping_in`) take the place of those that they name, within a section one by one.

        Raises:
            ConfigError: what was kept does not fit this version.
        """
        try:
            return _Kept(**{**_merged(kept, changes), **{name: getattr(self, name) for name in _OF_TODAY}})
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None

    def shaping(self) -> dict[str, Any]:
        """What shapes a decision, as JSON: kept with a run, so that it goes on as it began."""
        return self.model_dump(mode="json", exclude=set(_OF_TODAY))


class _Kept(Settings):
    """Settings that nothing of today is mixed into."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # the other sources are not used
        cls, _cls: Any, init_settings: Any, **_: Any
    ) -> Any:
        return (init_settings,)


def load_settings(config: Path | None = None, /, **flags: Any) -> Settings:
    """Read the settings. `config`: a TOML file, or None for `holdfast.toml` in the home folder, if it is there.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown or does not fit.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    path, data = _file(config, given.get("home"))
    _check_names(data, f"settings file {path}")
    _check_environment()

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(  # type: ignore[override]  # the other sources are not used
            cls, settings_cls: Any, init_settings: Any, env_settings: Any, **_: Any
        ) -> Any:
            return init_settings, env_settings, InitSettingsSource(settings_cls, data)

    try:
        _check_names(EnvSettingsSource(Loaded)(), "the environment (HOLDFAST_...)")
        return Loaded(**given)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None
    except SettingsError as error:
        raise ConfigError(f"{error} ({error.__cause__}); nothing was run; write a list or table as JSON") from None


def limit_sources(config: Path | None = None, /, **flags: Any) -> dict[str, str]:
    """Where each risk limit that is not the default comes from: "environment" or "file". Arguments as `load_settings`.

    Raises:
        ConfigError: the file cannot be read.
    """
    _, data = _file(config, flags.get("home"))
    given = EnvSettingsSource(Settings)().get("risk", {})
    return dict.fromkeys(data.get("risk", {}), "file") | dict.fromkeys(given, "environment")


def _file(config: Path | None, home: Any) -> tuple[Path, dict[str, Any]]:
    """The settings file, and what is in it; nothing where the home has none."""
    folder = _folder(Path(home or os.environ.get("HOLDFAST_HOME") or Settings.model_fields["home"].default))
    path = config if config is not None else folder / "holdfast.toml"
    return path, _read_toml(path) if config is not None or path.is_file() else {}


def shaping_in(config: Path) -> dict[str, Any]:
    """The settings of a file that shape a decision, and no others; raises ConfigError where it cannot be read."""
    return {name: value for name, value in _read_toml(config).items() if name not in _OF_TODAY}


def _merged(kept: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(kept)
    if "policy" in changes:  # the hash that was kept is that of another
        merged.pop("policy_sha256", None)
    for name, value in changes.items():
        there = merged.get(name)
        if isinstance(there, Mapping) and isinstance(value, Mapping):
            value = _merged(there, value)  # noqa: PLW2901 - a section changes only where it is told to
        merged[name] = value
    return merged


def _folder(home: Path) -> Path:
    try:
        folder = home.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"the home folder {home} cannot be told: {error}; nothing was run; give --home") from None
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"the home {folder} cannot be a folder, {part} is a file; nothing was run; give --home")
    return folder


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings file {path} cannot be used: {error}; nothing was run; correct the file") from None


_OF_TODAY = ("home", "database", "concurrency", "broker", "paper", "exchange")
"""Settings that do not shape a decision, and are never kept with a run."""
_SECTIONS: Mapping[str, type] = {
    "strategy": StrategySettings,
    "gate": GateSettings,
    "risk": RiskLimits,
    "paper": PaperTerms,
    "exchange": ExchangeTerms,
    "session": SessionTerms,
}


_NOT_SETTINGS = frozenset({"HOLDFAST_DATA", "HOLDFAST_SIM_RUNS"})  # what the test suite is told


def _check_environment() -> None:
    """The same for variables: the sources of settings only look at names that they know."""
    for variable in sorted(os.environ):
        upper = variable.upper()
        if upper.startswith("HOLDFAST_") and upper not in _NOT_SETTINGS:
            name = upper.removeprefix("HOLDFAST_").lower().partition("__")[0]
            _refuse_unknown({name: None}, set(Settings.model_fields), "", f"the environment ({variable})")


def _check_names(data: Mapping[str, Any], source: str) -> None:
    """A misspelt limit that is silently ignored is a limit that is not there."""
    _refuse_unknown(data, set(Settings.model_fields), "", source)
    for name, section in _SECTIONS.items():
        _refuse_unknown(data.get(name, {}), {field.name for field in fields(section)}, f"{name}.", source)
    policies = data.get("guards", {})
    for name, policy in policies.items() if isinstance(policies, dict) else ():
        _refuse_unknown(policy, {field.name for field in fields(GuardPolicy)}, f"guards.{name}.", source)


def _refuse_unknown(section: Any, known: set[str], prefix: str, source: str) -> None:
    unknown = sorted(set(section) - known) if isinstance(section, dict) else []
    if unknown:
        raise ConfigError(
            f"{source} has {prefix}{unknown[0]}, which is no setting; nothing was run;"
            f" settings here are {', '.join(sorted(known))}"
        )


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "settings"
    secret = where.partition(".")[0] in {"database", "exchange"}  # a password, or a key, may be in it
    got = "" if secret else f", got {first.get('input')!r:.80}"
    return (
        f"setting {where} does not fit: {first['msg']}{got}; nothing was run;"
        " correct it in the settings file, the environment (HOLDFAST_...) or the flags"
    )
