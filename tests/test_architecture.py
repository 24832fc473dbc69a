"""The shape of the house that no linter sees: what is imported when, and what the tests mirror."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pandas", "langgraph", "sqlalchemy", "numpy", "structlog", "exchange_calendars")


def imported_by(code):
    """The heavy modules that a fresh interpreter has after running `code`."""
    probe = f"{code}\nimport sys; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def test_the_command_line_parses_without_anything_heavy():
    assert imported_by("import graph.run") == set()


def test_the_pytest_plugin_is_light_for_those_who_only_have_it_installed():
    assert imported_by("import holdfast_pytest") == set()


def test_a_simulated_run_needs_neither_torch_nor_pandas(tmp_path):
    run = (
        "from pathlib import Path\n"
        "from graph.command import Command, execute\n"
        f"flags = {{'home': Path({str(tmp_path)!r})}}\n"
        "assert execute(Command('workflow', 'trade', flags=flags, json=True)) == 0"
    )
    assert imported_by(run) == {"langgraph", "sqlalchemy", "numpy"}


def test_every_module_has_a_test_of_its_own_name():
    """A module is tested in the file that mirrors it, or in one of its package's, named after what it does."""
    mirrored_elsewhere = {
        "agents/rules.py",  # by the values that follow them
        "agents/price_file.py",  # by what reads bars and quotes
        "agents/policy/protocol.py",  # a protocol and a record
        "agents/risk/measure.py",  # by the checks that are made of it
        "agents/risk/proposal.py",
        "agents/research/__init__.py",
        "graph/state.py",  # by the workflow's tests
        "graph/result.py",  # by the report's and the command's
        "checkpoints/engine.py",  # by the database's
        "checkpoints/jobs.py",
        "checkpoints/trouble.py",
        "checkpoints/history.py",  # by the saver's
        "checkpoints/archive_content.py",  # by the archive's
        "checkpoints/archive_records.py",
        "checkpoints/imported.py",
        "checkpoints/registry.py",  # by the runs'
        "checkpoints/orders.py",  # by the ledger's, whose rows and statements these two are
        "checkpoints/statement.py",
        "graph/comparison.py",  # by those of recovery and of the reconciler
        "agents/policy/mlp.py",  # by the tests of bundles, as the next four
        "agents/policy/torchscript.py",
        "agents/policy/metadata.py",
        "agents/policy/network.py",
        "agents/policy/observation.py",
        "agents/policy/inspect.py",  # by the tests of what trains what it inspects
        "graph/resilience/events.py",  # by every test of a guard
        "graph/transport.py",  # protocols and a record
        "graph/stream/events.py",  # by the streams that have them
        "graph/stream/connections.py",  # by the streams that are kept by it
        "graph/spot/answers.py",  # by all that reads them
        "graph/exchange/accounts.py",  # by the engine's tests, as the next two
        "graph/exchange/orders.py",
        "graph/exchange/symbols.py",
        "graph/exchange/hub.py",  # by the streams'
        "graph/exchange/messages.py",  # by the streams' and the calls'
        "graph/exchange/params.py",  # by the calls', as the next two
        "graph/exchange/placing.py",
        "graph/exchange/refusal.py",
        "graph/exchange/registry.py",  # by the venue's
        "graph/session/account.py",  # by the session's, as the next two
        "graph/session/host.py",
        "graph/session/status.py",
    }
    missing = []
    for package in ("agents", "checkpoints", "graph"):
        for module in sorted((ROOT / package).rglob("*.py")):
            name = module.relative_to(ROOT)
            test = ROOT / "tests" / name.parent / f"test_{name.name}"
            if module.name != "__init__.py" and str(name) not in mirrored_elsewhere and not test.exists():
                missing.append(str(name))
    assert missing == []
