"""Choosing a runtime, its last words, and the ids that a container gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from container import runtime
from container.driver import id_map
from container.runtime import Runtime
from hybrid.errors import CommandError, HostError, HybridError


def say(path: Path, *messages: str) -> Path:
    path.write_text("".join(json.dumps({"level": "error", "msg": message}) + "\n" for message in messages))
    return path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("executable file `nosuch` not found in $PATH: No such file or directory", 127),
        ('exec: "nosuch": executable file not found in $PATH', 127),
        ("open executable: Permission denied", 126),
        ('exec: "/etc/passwd": permission denied', 126),
        ('unable to start container process: exec: "/x": stat /x: no such file or directory', 127),
        ("exec /bin/broken: exec format error", 126),
        ("open `/some/where`: No such file or directory", 125),
        ("", 125),
    ],
)
def test_a_runtimes_words_become_dockers_exit_code(tmp_path: Path, words: str, code: int) -> None:
    error = runtime.failure(Runtime("/usr/bin/crun", tmp_path), say(tmp_path / "log", words), "x")
    assert error.exit_code == code
    assert isinstance(error, CommandError) is (code != 125)
    assert words in error.what


def test_a_command_that_failed_without_a_word(tmp_path: Path) -> None:
    error = runtime.failure(Runtime("/usr/bin/crun", tmp_path), tmp_path / "none", "x", executing=True)
    assert error.exit_code == 126


def test_last_words() -> None:
    log = '{"level":"warning","msg":"w"}\n{"level":"error","msg":"first"}\nplain\n{"level":"error","msg":"last"}\n'
    assert runtime.last_words(log) == "last"
    assert runtime.last_words("plain\n") == "plain"
    assert runtime.last_words("") == ""


def test_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.process.find", lambda tool: None)
    with pytest.raises(HostError, match="crun or runc") as failure:
        runtime.choose(None, tmp_path)
    assert "crun" in failure.value.mend
    with pytest.raises(HybridError, match="youki"):
        runtime.choose("youki", tmp_path)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        (None, 2_000_000_000),
        ("", 2_000_000_000),
        ("alice:100000:65536\n", 2_000_000_000),
        ("alice:100000:65536\nhybrid:300000:65536\n", 300000),
        ("hybrid:300000:1000\n", 2_000_000_000),
        ("hybrid:x:y\nhybrid\n", 2_000_000_000),
    ],
)
def test_the_ids_of_containers(tmp_path: Path, text: str | None, base: int) -> None:
    if text is not None:
        (tmp_path / "subuid").write_text(text)
    assert id_map(tmp_path / "subuid").base == base
