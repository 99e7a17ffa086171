"""Networks beside another firewall, on a host of their own: namespaces in which nobody else's traffic is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = r"""
set -e
mount -t tmpfs none /run; mkdir /run/cg; mount --rbind /sys/fs/cgroup /run/cg
mount -t sysfs none /sys; mount --rbind /run/cg /sys/fs/cgroup
ip link set lo up
ip netns add outside
ip link add up0 type veth peer name down0 netns outside
ip link set up0 up; ip addr add 192.0.2.9/24 dev up0
ip -n outside link set down0 up; ip -n outside addr add 192.0.2.10/24 dev down0
ip -n outside route add 10.0.0.0/8 via 192.0.2.9
docker='add chain ip filter DOCKER-USER; add rule ip filter DOCKER-USER counter return'
nft "add table ip filter; $docker; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
nft 'add rule ip filter FORWARD jump DOCKER-USER'
before=$(nft -s list ruleset)
cat /proc/sys/net/ipv4/ip_forward

$HYBRID run -d --name web --as container -p 8080:80 $TOOLS -- sh -c 'hostname >/tmp/index.html; httpd -f -p 80 -h /tmp'
$HYBRID run --rm --name client --as container $TOOLS -- sh -c 'ping -c 1 -W 10 192.0.2.10; wget -q -O - http://192.0.2.9:8080/'
ip netns exec outside busybox wget -q -O - http://192.0.2.9:8080/
address=$($HYBRID network inspect hybrid --format '{{range .Containers}}{{.IPv4Address}}{{end}}')
ip netns exec outside busybox ping -c 1 -W 1 ${address%/*} || true
nft list chain ip filter DOCKER-USER
$HYBRID rm -f web
test "$before" = "$(nft -s list ruleset)" && echo rules as before
ls /sys/class/net
"""


def test_beside_docker_s_firewall(
    home: Path, able: Callable[[str], None], tools: Path, nothing_left: Callable[[], list[str]]
) -> None:
    """Docker drops what it does not know. Ours passes, in and out; its rules are as they were at the end."""
    able("container")
    for program in ("unshare", "ip", "nft", "busybox"):
        if shutil.which(program) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{program} is not installed")
            pytest.skip(f"{program} is not installed")
    hybrid = Path(sys.executable).with_name("hybrid")
    environment = {**os.environ, "HYBRID_HOME": str(home), "HYBRID": str(hybrid), "TOOLS": str(tools)}
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "1 packets received" in said
    assert said.count("web\n") >= 3  # the name printed by run, and the page, fetched from inside and from outside
    assert "1 packets transmitted, 0 packets received" in said  # what is not published is not reached
    assert said.count('"hyb-*" accept comment "hybrid /run/hybrid"') == 2
    assert "rules as before\n" in said
    links = said.rpartition("rules as before\n")[2].split()
    assert not [link for link in links if link.startswith(("hyb", "hp"))]
