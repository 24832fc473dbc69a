"""Settings: who wins, and that nothing is ignored in silence."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from agents.errors import ConfigError
from graph.config import GuardPolicy, Settings, limit_sources, load_settings, shaping_in


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def toml(tmp_path):
    def write(text, name="given.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


class TestPrecedence:
    def test_defaults(self, tmp_path):
        settings = load_settings()
        assert (settings.concurrency, settings.window, settings.calendar) == (8, 512, "auto")
        assert settings.folder == tmp_path / ".holdfast"

    def test_file_over_defaults_environment_over_file_flags_over_all(self, toml, monkeypatch):
        path = toml("concurrency = 2\nwindow = 200\ncash = 5\n")
        assert load_settings(path).concurrency == 2
        monkeypatch.setenv("HOLDFAST_CONCURRENCY", "3")
        monkeypatch.setenv("HOLDFAST_WINDOW", "300")
        assert (load_settings(path).concurrency, load_settings(path).window) == (3, 300)
        settings = load_settings(path, concurrency=4)
        assert (settings.concurrency, settings.window, settings.cash) == (4, 300, 5)

    def test_a_flag_that_was_not_given_is_none_and_says_nothing(self, toml):
        assert load_settings(toml("concurrency = 2"), concurrency=None).concurrency == 2

    def test_tables_are_merged_value_by_value(self, toml, monkeypatch):
        path = toml("[risk]\nconcentration_share_max = 0.1\ndaily_loss_share_max = 0.01\n")
        monkeypatch.setenv("HOLDFAST_RISK__DAILY_LOSS_SHARE_MAX", "0.02")
        risk = load_settings(path).risk
        assert (risk.concentration_share_max, risk.daily_loss_share_max) == (0.1, 0.02)
        assert risk.order_notional_max == Settings().risk.order_notional_max

    def test_the_home_has_its_own_file_and_one_that_is_given_goes_before(self, toml, tmp_path, monkeypatch):
        toml("concurrency = 5", "house/holdfast.toml")
        assert load_settings(home=tmp_path / "house").concurrency == 5
        assert load_settings(toml("window = 200"), home=tmp_path / "house").concurrency == 8
        monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "house"))
        assert (load_settings().concurrency, load_settings().home) == (5, tmp_path / "house")

    def test_an_empty_variable_is_none(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOLDFAST_HOME", "")
        monkeypatch.setenv("HOLDFAST_CONCURRENCY", "")
        assert (load_settings().folder, load_settings().concurrency) == (tmp_path / ".holdfast", 8)

    def test_lists_and_tables_of_the_environment_are_json(self, monkeypatch):
        monkeypatch.setenv("HOLDFAST_REQUIRED", '["trend"]')
        monkeypatch.setenv("HOLDFAST_GUARDS", '{"trend": {"max_attempts": 1}}')
        settings = load_settings()
        assert settings.required == ("trend",)
        assert settings.guard("trend") == GuardPolicy(max_attempts=1)
        assert settings.guard("breakout") == GuardPolicy()

    def test_what_a_policy_does_not_say_is_the_default(self):
        settings = load_settings(guards={"research": {"attempt_timeout": 2}, "trend": {"deadline": 9}})
        assert settings.guard("research") == replace(GuardPolicy(), attempt_timeout=2)
        assert settings.guard("trend") == GuardPolicy(deadline=9)
        usual = load_settings().guard("strategy")
        assert (usual.max_attempts, usual.base_seconds, usual.max_seconds, usual.attempt_timeout) == (
            3,
            1.0,
            60.0,
            30.0,
        )
        assert (usual.failure_threshold, usual.success_threshold, usual.open_seconds) == (5, 2, 60.0)

    def test_what_shapes_a_run_is_kept_and_loaded_again(self, toml, monkeypatch):
        first = load_settings(toml('cash = "12.5"\nrequired = ["trend"]\n[risk]\nquantity_step = "0.5"\n'))
        monkeypatch.setenv("HOLDFAST_CASH", "99")
        monkeypatch.setenv("HOLDFAST_RISK__QUANTITY_MAX", "1")
        monkeypatch.setenv("HOLDFAST_STRATEGY__ALLOW_SHORT", "true")
        again = load_settings(None, **first.shaping())
        assert again.shaping() == first.shaping()
        assert (again.cash, again.risk.quantity_step, again.risk.quantity_max) == (
            Decimal("12.5"),
            Decimal("0.5"),
            None,
        )
        assert again.strategy.allow_short is False


class TestPolicy:
    def test_by_default_it_is_the_one_that_is_here(self):
        assert (load_settings().policy, load_settings().policy_sha256) == ("demo", "")

    def test_a_folder_is_made_absolute_and_a_name_stays_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for given, found in {
            "rule": "rule",
            "hold-cash": "hold-cash",
            "./rule": str(tmp_path / "rule"),
            "bundles/new": str(tmp_path / "bundles" / "new"),
            "~/mine": str(tmp_path / "mine"),
            "/there": "/there",
        }.items():
            assert load_settings(policy=given).policy == found

    @pytest.mark.parametrize("wrong", ["", "  ", "a\nb", "a\x00b", "~nobody-at-all/x"])
    def test_what_is_none(self, wrong):
        with pytest.raises(ConfigError, match="setting policy does not fit"):
            load_settings(policy=wrong)

    def test_a_hash(self):
        assert load_settings(policy_sha256="AB" * 32).policy_sha256 == "ab" * 32
        for wrong in ("ab", "g" * 64, "a" * 65, "a" * 64 + "\n"):
            with pytest.raises(ConfigError, match="setting policy_sha256 does not fit"):
                load_settings(policy_sha256=wrong)

    def test_another_policy_does_not_keep_the_hash_of_the_one_before(self):
        kept = load_settings(policy="/there", policy_sha256="ab" * 32).shaping()
        settings = load_settings()
        assert settings.of_run(kept).policy_sha256 == "ab" * 32
        assert settings.of_run(kept, {"window": 200}).policy_sha256 == "ab" * 32
        assert settings.of_run(kept, {"policy": "/other"}).policy_sha256 == ""
        changed = settings.of_run(kept, {"policy": "/other", "policy_sha256": "cd" * 32})
        assert (changed.policy, changed.policy_sha256) == ("/other", "cd" * 32)


class TestLimitSources:
    def test_what_is_said_twice_comes_from_the_stronger_one(self, toml, monkeypatch):
        path = toml("[risk]\nquantity_max = 5\norder_notional_max = 9\n", "house/holdfast.toml")
        monkeypatch.setenv("HOLDFAST_RISK", '{"quantity_max": 4}')
        monkeypatch.setenv("HOLDFAST_RISK__QUANTITY_STEP", "1")
        told = {"quantity_max": "environment", "order_notional_max": "file", "quantity_step": "environment"}
        assert limit_sources(path) == limit_sources(home=path.parent) == told
        assert load_settings(path).risk.quantity_max == 4
        monkeypatch.setenv("HOLDFAST_HOME", str(path.parent))
        assert limit_sources(None, home=None, concurrency=3) == told

    def test_without_any_all_are_defaults(self):
        assert limit_sources() == {}


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("concurency = 2", "concurency, which is no setting"),
            ("[risk]\nmax = 2", "risk.max, which is no setting"),
            ("[strategy]\nx = 2", "strategy.x"),
            ("[gate]\nx = 2", "gate.x"),
            ("[guards.trend]\ntimeout = 2", "guards.trend.timeout"),
            ("concurrency = 0", "setting concurrency does not fit"),
            ("concurrency = 1001", "setting concurrency does not fit"),
            ('concurrency = "many"', "setting concurrency does not fit"),
            ("window = 99", "setting window does not fit"),
            ("bar_period = 0", "setting bar_period does not fit"),
            ("bar_period = inf", "setting bar_period does not fit"),
            ("cash = 0", "setting cash does not fit"),
            ("cash = nan", "setting cash does not fit"),
            ("cash = inf", "setting cash does not fit"),
            ("required = 3", "setting required does not fit"),
            ("risk = 3", "setting risk does not fit"),
            ("guards = 3", "setting guards does not fit"),
            ("guards.trend = 3", "setting guards.trend does not fit"),
            ("[risk]\norder_notional_max = -1", "order_notional_max is -1"),
            ("[risk]\norder_notional_max = nan", "order_notional_max is nan"),
            ('[risk]\nquantity_step = "NaN"', "quantity_step"),
            ("[risk]\norder_notional_max = true", "order_notional_max is a truth value"),
            ("[risk]\ndrawdown_share_max = 30", "a share of 30 % is written 0.3"),
            ("[risk]\nreject_streak_max = 2.5", "setting risk.reject_streak_max does not fit"),
            ('[risk]\nrestricted = ["G ME"]', "'G ME' is not a symbol"),
            ("[strategy]\nstop_atr = 0", "strategy.stop_atr is 0"),
            ("[gate]\ncoverage_min = inf", "gate.coverage_min is inf"),
            ("[guards.trend]\nmax_attempts = 0", "max_attempts is 0"),
            ("[guards.trend]\nattempt_timeout = inf", "attempt_timeout is inf"),
            ("= 3", "cannot be used"),
            (f"cash = {'9' * 5_000}", "cannot be used"),
            (f"required = {'[' * 10_000}", "cannot be used"),
            ("home = 3", "setting home does not fit"),
        ],
    )
    def test_one_line_that_names_it(self, toml, text, named):
        with pytest.raises(ConfigError) as caught:
            load_settings(toml(text))
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "value", "named"),
        [
            ("CONCURRENCY", "x", "setting concurrency does not fit"),
            ("REQUIRED", "trend", 'value for field "required"'),
            ("RISK", "{broken", 'value for field "risk"'),
            ("RISK__TYPO", "1", "has risk.typo, which is no setting"),
            ("GUARDS__TREND__TYPO", "1", "has guards.trend.typo, which is no setting"),
            ("RISK__ORDER_NOTIONAL_MAX", "0", "order_notional_max is 0"),
        ],
    )
    def test_of_the_environment(self, monkeypatch, name, value, named):
        monkeypatch.setenv(f"HOLDFAST_{name}", value)
        with pytest.raises(ConfigError) as caught:
            load_settings()
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_files_that_cannot_be_read(self, tmp_path):
        (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
        for path in (tmp_path / "none.toml", tmp_path, tmp_path / "bytes.toml"):
            with pytest.raises(ConfigError, match=r"cannot be used: .*; nothing was run; correct the file"):
                load_settings(path)

    def test_a_home_that_is_no_folder(self, tmp_path):
        (tmp_path / "file").write_text("")
        for home in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(ConfigError, match="is a file; nothing was run"):
                load_settings(home=home)
        with pytest.raises(ConfigError, match="the home folder ~nobody-here/x cannot be told"):
            load_settings(home=Path("~nobody-here/x"))


class TestDatabase:
    URL = "postgresql://me:canary@localhost/books"

    def test_it_is_the_file_of_the_home_unless_a_url_is_given(self, toml, tmp_path, monkeypatch):
        assert load_settings().address == tmp_path / ".holdfast" / "holdfast.db"
        path = toml('database = "sqlite:///of/the/file"')
        assert load_settings(path).address == "sqlite:///of/the/file"
        monkeypatch.setenv("HOLDFAST_DATABASE", "sqlite:///of/the/environment")
        assert load_settings(path).address == "sqlite:///of/the/environment"
        assert load_settings(path, database=self.URL).address == self.URL

    def test_its_password_is_neither_shown_nor_kept(self):
        settings = load_settings(database=self.URL)
        assert "canary" not in f"{settings!r}{settings}{settings.model_dump()}{settings.model_dump_json()}"
        assert "database" not in settings.shaping()
        assert settings.home_flag == " --database 'postgresql://me:***@localhost/books'"

    def test_a_run_goes_on_where_it_is_kept_today(self):
        kept = load_settings(database=self.URL, window=200).shaping()
        today = load_settings(database="sqlite:///moved").of_run(kept)
        assert (today.address, today.window) == ("sqlite:///moved", 200)

    def test_what_is_found_anyway_is_no_part_of_a_hint(self, toml, monkeypatch):
        toml(f'database = "{self.URL}"', ".holdfast/holdfast.toml")
        assert load_settings().home_flag == ""
        assert load_settings(database="sqlite:///other").home_flag == " --database sqlite:///other"
        monkeypatch.setenv("HOLDFAST_DATABASE", "sqlite:///other")
        assert load_settings().home_flag == ""
        assert load_settings(database=self.URL).home_flag != ""

    @pytest.mark.parametrize("value", ["canary", 3, ["canary"], {"canary": 1}])
    def test_what_is_no_url_is_refused_without_being_shown(self, value):
        with pytest.raises(ConfigError, match="setting database does not fit: ") as caught:
            load_settings(database=value)
        assert "canary" not in str(caught.value)
        assert "\n" not in str(caught.value)


class TestChanges:
    """The settings of a run, but for those of a file."""

    def test_one_by_one_within_a_section_and_whole_elsewhere(self, settings):
        kept = settings(strategy={"weight_max": 0.2, "reward_risk": 3.0}, optional=("volume",)).shaping()
        today = settings(concurrency=3)
        changes = {"strategy": {"weight_max": 0.1}, "optional": ["seasonality"], "guards": {"trend": {"deadline": 9}}}
        changed = today.of_run(kept, changes)
        assert (changed.strategy.weight_max, changed.strategy.reward_risk) == (0.1, 3.0)
        assert (changed.optional, changed.guards["trend"].deadline, changed.concurrency) == (("seasonality",), 9, 3)
        assert today.of_run(kept, {}).shaping() == today.of_run(kept).shaping() == kept
        assert kept["strategy"]["weight_max"] == 0.2

    def test_a_change_that_does_not_fit(self, settings):
        with pytest.raises(ConfigError, match=r"setting strategy\S* does not fit"):
            settings().of_run({}, {"strategy": {"weight_max": []}})

    def test_what_a_file_has_of_them(self, tmp_path):
        path = tmp_path / "other.toml"
        path.write_text('home = "/x"\nconcurrency = 2\ncash = 5\n[strategy]\nweight_max = 0.1\n')
        assert shaping_in(path) == {"cash": 5, "strategy": {"weight_max": 0.1}}
        with pytest.raises(ConfigError):
            shaping_in(tmp_path / "none.toml")


class TestExchange:
    """Where an exchange is, and the account there, whose key and secret nobody is shown."""

    def test_from_a_file_and_the_environment(self, tmp_path, monkeypatch):
        path = tmp_path / "s.toml"
        path.write_text('[exchange]\nrest = "http://127.0.0.1:9010"\nkey = "canary-1"\nsymbols = ["ETHUSDT"]\n')
        monkeypatch.setenv("HOLDFAST_EXCHANGE__SECRET", "canary-2")
        terms = load_settings(path).exchange
        assert (terms.rest, terms.symbols) == ("http://127.0.0.1:9010", ("ETHUSDT",))
        assert (terms.key.get_secret_value(), terms.secret.get_secret_value()) == ("canary-1", "canary-2")
        monkeypatch.setenv("HOLDFAST_EXCHANGE__SYMBOLS", "BTCUSDT, ETHUSDT")
        assert load_settings(path).exchange.symbols == ("BTCUSDT", "ETHUSDT")

    def test_neither_is_shown_or_kept_with_a_run(self, tmp_path):
        path = tmp_path / "s.toml"
        path.write_text('[exchange]\nkey = "canary-1"\nsecret = "canary-2"\n')
        settings = load_settings(path)
        assert "canary" not in repr(settings) + str(settings.shaping())
        assert "exchange" not in settings.shaping()

    @pytest.mark.parametrize(
        "line",
        [
            'symbols = ["a b"]',
            "symbols = 5",
            "rest = 5",
            'rest = "http://api.example.com"',
            "secret = 5",
            'colour = "red"',
        ],
    )
    def test_what_does_not_fit_is_refused_and_the_secret_not_told(self, tmp_path, line):
        path = tmp_path / "s.toml"
        other = "" if line.startswith("secret") else 'secret = "canary-2"\n'
        path.write_text(f'[exchange]\nkey = "canary-1"\n{other}{line}\n')
        with pytest.raises(ConfigError) as told:
            load_settings(path)
        assert "exchange" in str(told.value)
        assert "canary" not in str(told.value)
