"""An ordinary user's ids, and directories that another user could have put there. The rest is in integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from container.mounts import IdMap
from hybrid import home, rootless
from hybrid.errors import HostError
from hybrid.network import rules
from hybrid.network.model import Interface, Lease, Published

UID = 51_500


@pytest.fixture
def subuid(tmp_path: Path) -> Path:
    path = tmp_path / "subuid"
    path.write_text(f"# nobody's\nsomebody:1:70000\n{UID}:100000:65536\n\n{UID}:900000:x\n{UID}:300000:1000\n")
    return path


def test_only_the_users_own_whole_lines_count(subuid: Path) -> None:
    assert rootless.ranges(UID, subuid) == [(100000, 65536), (300000, 1000)]


def test_the_user_is_0_and_its_ranges_follow_the_longest_first(subuid: Path) -> None:
    assert rootless.id_map(UID, subuid) == [0, UID, 1, 1, 100000, 65536, 65537, 300000, 1000]
    assert rootless.id_map(UID, subuid, 7)[:3] == [0, 7, 1]


@pytest.mark.parametrize("text", ("", "somebody:1:65536\n", f"{UID}:1:1000\n"))
def test_too_few_ids_are_an_error_with_the_mend(tmp_path: Path, text: str) -> None:
    path = tmp_path / "subuid"
    path.write_text(text)
    with pytest.raises(HostError) as failure:
        rootless.id_map(UID, path)
    assert "usermod --add-subuids" in failure.value.mend


def test_a_range_of_ids_is_cut_where_the_kernel_maps_none_across() -> None:
    assert IdMap(0, 65536, (0, 1, 65537)).ranges == [(0, 0, 1), (1, 1, 65535)]
    assert IdMap(2_000_000_000).ranges == [(0, 2_000_000_000, 65536)]


def test_a_directory_that_others_may_use_is_refused(tmp_path: Path) -> None:
    home.check_own(tmp_path / "nothing")
    good, open_, link = tmp_path / "good", tmp_path / "open", tmp_path / "link"
    good.mkdir(mode=0o700)
    home.check_own(good)
    open_.mkdir()
    open_.chmod(0o770)
    link.symlink_to(good)
    for bad in (open_, link):
        with pytest.raises(HostError, match="only this user"):
            home.check_own(bad)


def test_a_session_directory_too_long_for_sockets_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert home.session_directory(UID) == Path(f"/tmp/hybrid-{UID}")


def test_root_with_a_variable_of_ours_stays_root(monkeypatch: pytest.MonkeyPatch) -> None:
    before = home.ordinary_user()
    monkeypatch.setenv(home.USER, str(UID))
    whole = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    assert not whole or home.ordinary_user() == before


@pytest.mark.parametrize(
    ("behind", "maps"), ((False, {"own_address", "own_port"}), (True, {"all_address", "all_port"}))
)
def test_behind_a_users_own_network_a_port_has_one_address(behind: bool, maps: set[str]) -> None:
    lan = Interface("hybrid", "10.0.0.2", 24, "10.0.0.1", "02:00:00:00:00:01", "hp0", "hyb-0")
    port = Published(8080, 80, "127.0.0.1")
    lease = Lease("1" * 16, "web", "/", (1, 1), (lan,), (port,), behind=behind)
    assert {command["add"]["element"]["name"] for command in rules.published("hybrid", lease)} == maps
