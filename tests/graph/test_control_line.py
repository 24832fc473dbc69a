"""The operator's words as a command line: what they are parsed to, and what is done before anything else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graph import command, run

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("halt", "reduce", "resume-trading")


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def main(monkeypatch, capsys):
    """Call the entry point; gives the exit code and what was printed."""

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["holdfast", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return main


@pytest.fixture
def parsed(monkeypatch, main):
    """What a command line is parsed to."""

    def parsed(*arguments, code=0):
        taken = []
        monkeypatch.setattr(command, "execute", lambda each: taken.append(each) or code)
        assert main(*arguments) == (code, "", "")
        return taken[0]

    return parsed


@pytest.mark.parametrize("word", WORDS)
def test_everything_reaches_the_command(parsed, word, tmp_path):
    line = f"--reason why --home {tmp_path} --database postgresql://h/d --config c.toml --json"
    flags = {"home": tmp_path, "database": "postgresql://h/d"}
    expected = command.Command(word, "why", config=Path("c.toml"), flags=flags, json=True)
    assert parsed(word, *line.split()) == expected


def test_the_flags_of_each(parsed, tmp_path):
    assert parsed("halt", "--reason", "x", "--flatten", "--home", tmp_path).flatten
    assert parsed("resume-trading", "--reason", "x", "--reducing").reducing
    assert parsed("audit").verb == "audit"
    assert parsed("audit", "verify", "--json").verb == "audit-verify"
    assert parsed("audit", code=1).verb == "audit"


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("reason", [[], ["--reason"], ["--reason", ""], ["--reason", " \n\0 "]], ids=str)
def test_without_a_reason_nothing_is_done(main, word, reason, tmp_path):
    code, out, err = main(word, *reason, "--home", tmp_path / "home")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "line", ["audit burn", "halt --reason x extra", "halt --reason x --force", "reduce --reason x --flatten"]
)
def test_a_bad_line_is_one_line_and_two(main, line, tmp_path):
    code, out, err = main(*line.split(), "--home", tmp_path / "home")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "home").exists()


def test_a_reason_is_kept_on_one_line_and_not_endless(parsed, tmp_path):
    words = parsed("reduce", "--reason", "a\nb\0c \udcff" + "x" * 5_000, "--home", tmp_path).subject
    assert words.startswith("a b c ?xxx")
    assert len(words) == 1_000


def test_halt_is_done_before_the_command_and_with_a_flattening_after_it(parsed, tmp_path):
    parsed("halt", "--reason", "lunch", "--home", tmp_path / "one")
    assert json.loads((tmp_path / "one" / "HALT").read_text())["why"] == "lunch"
    parsed("halt", "--reason", "lunch", "--flatten", "--home", tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_home_that_takes_no_file_is_told_and_the_command_goes_on(main, monkeypatch, tmp_path):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr(command, "execute", lambda each: 0)
    code, _, err = main("halt", "--reason", "lunch", "--home", tmp_path / "home")
    assert code == 0
    assert err.startswith("warning: ")
    assert "HALT cannot be written (" in err


def test_help_names_the_words_and_each_has_its_own(main):
    code, out, _ = main("--help")
    assert code == 0
    for word in ("halt --reason", "reduce --reason", "resume-trading --reason", "audit [verify]"):
        assert word in out
    for word in (*WORDS, "audit"):
        code, out, err = main(word, "--help")
        assert (code, err) == (0, "")
        assert "--home" in out


def test_the_words_are_parsed_and_the_file_is_written_without_anything_heavy(tmp_path):
    code = (
        "import sys\nfrom graph import control_line\n"
        f"control_line._halt_at_once(__import__('pathlib').Path({str(tmp_path)!r}), None, 'lunch')\n"
        "print([m for m in ('langgraph', 'numpy', 'sqlalchemy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert (tmp_path / "HALT").exists()
