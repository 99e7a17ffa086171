"""Units for systemd: their text, and that systemd reads from it what was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hybrid import process
from hybrid.errors import HybridError
from hybrid.systemd import Service, quote, unit

DATA = Path(__file__).parent / "data/systemd"

PLAIN = Service("web", "/usr/bin/hybrid", "hybrid vm web (nginx:1)", restart="always", needs=("/var/lib/hybrid",))
ODD = Service(
    "web-1.2_x",
    "/opt/a b %n/$HOME/hybrid",
    'a\nExecStart=/bin/evil\n%n "x" \\',
    restart="on-failure:3",
    stop_signal=3,
    stop_timeout=2.5,
    environment={"HYBRID_HOME": '/srv/50% of $HOME/a "b"\\c\nd'},
    needs=('/srv/50% of $HOME/a "b"\\c',),
    root=False,
)


@pytest.mark.parametrize(("name", "service"), [("plain", PLAIN), ("odd", ODD)])
def test_the_text(name: str, service: Service) -> None:
    assert unit(service) == (DATA / f"{name}.service").read_text()


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        ("no", ["Restart=no"]),
        ("unless-stopped", ["Restart=always", "StartLimitIntervalSec=0"]),
        ("on-failure", ["Restart=on-failure", "StartLimitIntervalSec=0"]),
        ("on-failure:5", ["Restart=on-failure", "StartLimitIntervalSec=infinity", "StartLimitBurst=6"]),
    ],
)
def test_policies(policy: str, lines: list[str]) -> None:
    text = unit(Service("web", "/usr/bin/hybrid", "web", restart=policy)).splitlines()
    assert [line for line in text if line in lines] == sorted(lines, key=text.index)


def test_what_systemd_would_refuse() -> None:
    with pytest.raises(HybridError, match="sometimes"):
        unit(Service("web", "/usr/bin/hybrid", "web", restart="sometimes"))
    with pytest.raises(HybridError, match="executes nothing"):
        unit(Service("web", '/opt/"a"/hybrid', "web"))


@pytest.mark.parametrize(
    "text", ["plain", "a b", 'q"q', "back\\slash", "new\nline", "tab\t", "\x01", "%n", "$HOME", "ü", ""]
)
def test_a_quoted_word_is_one_word_on_one_line(text: str) -> None:
    quoted = quote(text)
    assert "\n" not in quoted
    assert quoted.startswith('"') == (re.fullmatch(r"[A-Za-z0-9_./:=@%$+,-]+", text) is None)
    assert _read(quoted) == text


def _read(word: str) -> str:
    """What systemd makes of a word in quotes, by systemd.syntax(7) and systemd.unit(5)."""
    if word.startswith('"'):
        word = re.sub(
            r"\\(x[0-9a-f]{2}|.)",
            lambda found: (
                chr(int(found[1][1:], 16)) if found[1][0] == "x" else {"n": "\n", "t": "\t"}.get(found[1], found[1])
            ),
            word[1:-1],
        )
    return word.replace("%%", "%")


@pytest.mark.skipif(process.find("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    program = tmp_path / "a b %n" / "$HOME" / "hybrid"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "web.service"
    path.write_text(
        unit(Service("web", str(program), ODD.description, "always", needs=("/tmp",), environment=ODD.environment))
    )
    process.run(["systemd-analyze", "verify", "--man=no", path])
