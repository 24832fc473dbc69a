"""The file HALT: whatever it is, it halts; and only who has seen it can take it away."""

import json
import os
import pwd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import StorageError
from checkpoints.halt_file import Halt, HaltFile, home_folder, user_name

ME = pwd.getpwuid(os.getuid()).pw_name
ASKED = Halt("operator", "anna", "lunch", 7)


@pytest.fixture
def file(tmp_path):
    return HaltFile(tmp_path)


class TestReading:
    def test_there_is_none(self, file, tmp_path):
        assert file.read() is None
        assert HaltFile(tmp_path / "no" / "folder").read() is None

    def test_what_was_written_is_read(self, file):
        file.write(ASKED)
        found = file.read()
        assert (found, found.ours) == (ASKED, True)
        assert file.path.stat().st_mode & 0o777 == 0o600
        assert [each.name for each in file.path.parent.iterdir()] == ["HALT"]

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b"", "HALT is there"),
            (b"the feed\n lies\n", "the feed lies"),
            (b"\xff\x00", "\N{REPLACEMENT CHARACTER}\0"),
            (b"{}", "{}"),
            (b'{"code": "operator"}', '{"code": "operator"}'),
            (b'{"code": 1, "who": "", "why": "", "since_ns": 1}', '"code": 1'),
            (b'{"code": "c", "who": "", "why": "", "since_ns": true}', "true"),
            (b'{"code": "c", "who": "", "why": "", "since_ns": -1}', "-1"),
            (b'{"code": "' + b"c" * 33 + b'", "who": "", "why": "", "since_ns": 1}', "ccc"),
            (b"[" * 60_000, "[["),
        ],
    )
    def test_by_hand_its_text_is_the_reason(self, file, text, why):
        file.path.write_bytes(text)
        os.utime(file.path, ns=(5, 5))
        found = file.read()
        assert (found.code, found.who, found.since_ns, found.ours) == ("file", ME, 5, False)
        assert why in found.why

    def test_whatever_has_the_name_halts(self, file, tmp_path):
        def loop():
            file.path.symlink_to(file.path)

        for make in (file.path.mkdir, lambda: file.path.symlink_to("nowhere"), loop, lambda: os.mkfifo(file.path)):
            make()
            found = file.read()
            assert found is not None
            assert found.code == "file"
            assert found.why
            if file.path.is_dir():
                file.path.rmdir()
            else:
                file.path.unlink()

    def test_where_it_cannot_be_told_there_is_one(self, tmp_path):
        (tmp_path / "home").write_text("no folder")
        found = HaltFile(tmp_path / "home").read()
        assert (found.code, found.ours) == ("file", False)
        assert "cannot be looked for (Not a directory)" in found.why

    @given(st.binary(max_size=200))
    def test_any_text_halts(self, tmp_path_factory, text):
        file = HaltFile(tmp_path_factory.getbasetemp())
        file.path.write_bytes(text)
        assert file.read() is not None


class TestWriting:
    def test_one_that_is_there_stays(self, file):
        file.path.write_text("mine")
        file.write(ASKED)
        assert file.path.read_text() == "mine"

    def test_a_folder_that_is_not_there_is_made_for_its_owner_alone(self, tmp_path):
        HaltFile(tmp_path / "home").write(ASKED)
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("why", ["x" * 100_000, "\N{GRINNING FACE}" * 3_000, "a\nb\0\ud800"])
    def test_any_reason_can_be_read_again_as_far_as_it_is_kept(self, file, why):
        file.write(Halt("operator", "anna", why, 7))
        found = file.read()
        assert found.ours
        assert found.why == why[:2_000]

    def test_without_room_for_the_reason_it_halts_all_the_same(self, file, monkeypatch):
        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        file.write(ASKED)
        assert file.path.read_bytes() == b""
        assert file.read().code == "file"
        assert [each.name for each in file.path.parent.iterdir()] == ["HALT"]

    def test_where_there_can_be_none_that_is_told(self, tmp_path):
        (tmp_path / "home").write_text("no folder")
        with pytest.raises(StorageError, match=r"HALT cannot be written \(.*\); trading is not halted by it"):
            HaltFile(tmp_path / "home").write(ASKED)


class TestRemoving:
    def test_what_was_seen_is_removed(self, file):
        file.write(ASKED)
        file.remove(file.read())
        assert file.read() is None
        file.remove(ASKED)

    def test_what_has_come_since_stays(self, file):
        file.write(ASKED)
        seen = file.read()
        file.path.unlink()
        file.write(ASKED)
        os.utime(file.path, ns=(9, 9))
        file.remove(seen)
        assert file.read() == ASKED

    def test_what_cannot_be_removed_is_told(self, file):
        file.path.mkdir()
        with pytest.raises(StorageError, match=r"cannot be removed .*; trading stays halted by it; remove it by hand"):
            file.remove(file.read())


class TestHome:
    @pytest.fixture(autouse=True)
    def _nobody(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))

    @pytest.mark.parametrize("by", ["flag", "environment", "file", "own file", "default", "tilde"])
    def test_it_is_that_of_the_settings(self, by, monkeypatch, tmp_path):
        from graph.config import load_settings

        config, flag, elsewhere = None, None, tmp_path / "elsewhere"
        if by in {"flag", "tilde"}:
            flag = elsewhere if by == "flag" else "~/elsewhere"
        if by == "environment":
            monkeypatch.setenv("HOLDFAST_HOME", str(elsewhere))
        if by in {"file", "flag", "environment"}:
            config = tmp_path / "x.toml"
            config.write_text(f'home = "{elsewhere}"' if by == "file" else 'home = "/other"')
        if by == "own file":
            (tmp_path / ".holdfast").mkdir()
            (tmp_path / ".holdfast" / "holdfast.toml").write_text(f'home = "{elsewhere}"')
        found = home_folder(flag, config)
        assert found == load_settings(config, home=flag).folder
        assert found == (tmp_path / ".holdfast" if by == "default" else elsewhere)

    @pytest.mark.parametrize("text", ["no toml [", "home = 7", "x = 1", "\udcff"])
    def test_settings_that_cannot_be_used_are_no_reason_to_have_none(self, tmp_path, text):
        config = tmp_path / "x.toml"
        config.write_bytes(text.encode(errors="surrogateescape"))
        for file in (config, tmp_path / "none.toml", tmp_path):
            assert home_folder(None, file) == tmp_path / ".holdfast"


def test_who_is_what_the_system_says_and_not_the_environment(monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody else")
    monkeypatch.setenv("USER", "somebody else")
    assert user_name(os.getuid()) == ME
    assert user_name(2**31 - 7) == str(2**31 - 7)


def test_what_it_writes_is_one_line_of_json(file):
    file.write(ASKED)
    assert json.loads(file.path.read_text()) == {"code": "operator", "who": "anna", "why": "lunch", "since_ns": 7}
    assert file.path.read_text().count("\n") == 1
