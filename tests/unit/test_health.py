"""A healthcheck's states without a clock, and its probes with one: time-outs, children, output, who waits for it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from hybrid import health, monitor, process
from hybrid.driver import Health
from hybrid.errors import NotReadyError
from hybrid.image import Healthcheck
from hybrid.monitor import Checks, Result, Timing

TIMING = Timing(interval=10.0, timeout=5.0, retries=3, start_period=20.0, start_interval=0.1)


def at(seconds: float, code: int | None, output: str = "") -> Result:
    return Result(round((seconds - 0.01) * 1e9), round(seconds * 1e9), code, output)


def states(*results: Result, timing: Timing = TIMING) -> list[str]:
    checks = Checks(timing, 0)
    found = []
    for result in results:
        checks.take(result)
        found.append(f"{checks.status} {checks.streak}")
    return found


def test_failures_count_once_an_interval_after_the_start_period() -> None:
    found = states(at(1, 1), at(19, 1), at(25, 1), at(30, 1), at(30.1, 1), at(39.9, 1), at(40, 1), at(50, 1))
    assert found == [
        *["starting 0"] * 3,
        *["starting 1"] * 3,
        "starting 2",
        "unhealthy 3",
    ]


def test_after_the_first_pass_every_failure_counts() -> None:
    found = states(at(1, 0), at(2, 1), at(3, None), at(4, 0), at(5, 2), at(6, 2), at(7, 2), at(8, 2), at(9, 0))
    assert found == [
        *["healthy 0", "healthy 1", "healthy 2", "healthy 0", "healthy 1", "healthy 2"],
        *["unhealthy 3", "unhealthy 4", "healthy 0"],
    ]


def test_probes_are_close_until_the_first_has_passed() -> None:
    checks = Checks(TIMING, 0)
    assert checks.pause() == 0.1
    checks.take(at(1, 0))
    assert checks.pause() == 10.0
    assert checks.passed == 10**9
    assert Checks(Timing(0.05, 1, 1, 0, 5.0), 0).pause() == 0.05


def test_the_last_five_results_are_kept() -> None:
    checks = Checks(TIMING, 0)
    for number in range(7):
        checks.take(at(number, number, f"said {number}"))
    checks.take(at(8, None))
    log = checks.values()["Log"]
    assert isinstance(log, list)
    assert [each["ExitCode"] for each in log] == [3, 4, 5, 6, -1]
    assert "within 5 s" in log[-1]["Output"]


@pytest.fixture
def never() -> int:
    return os.eventfd(0)


def reap(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def execute(script: str, timeout: float, ended: int) -> Result:
    return monitor.execute(["sh", "-c", script], dict(os.environ), timeout, ended, reap)


def test_a_probe_yields_code_and_output(never: int) -> None:
    result = execute("echo out; echo err >&2; exit 3", 60, never)
    assert (result.exit_code, result.output) == (3, "out\nerr\n")
    assert execute("kill -9 $$", 60, never).exit_code == 137
    assert monitor.execute(["/does/not/exist"], {}, 60, never, reap).exit_code == 126
    assert result.end > result.start


def test_output_is_bounded(never: int) -> None:
    assert len(execute("yes | head -c 3000000", 60, never).output) == monitor.OUTPUT


def test_a_background_child_that_holds_the_output_delays_nothing(never: int, tmp_path: Path) -> None:
    result = execute(f"sleep 1000 & echo $! >{tmp_path}/pid", 60, never)
    assert result.exit_code == 0
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(pid, process.start_time(pid))


def test_a_late_probe_is_killed_with_all_that_it_started(never: int, tmp_path: Path) -> None:
    script = f"setsid sh -c 'echo $$ >{tmp_path}/a; sleep 1000' & sleep 1000 & echo $! >{tmp_path}/b; sleep 1000"
    result = execute(script, 2, never)
    assert result.exit_code is None
    pids = [int((tmp_path / name).read_text()) for name in "ab"]
    deadline = time.monotonic() + 60
    while any(map(process.start_time, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(process.start_time, pids))


def test_the_end_of_the_command_ends_a_probe() -> None:
    ended = os.eventfd(0)
    threading.Timer(0.3, os.eventfd_write, (ended, 1)).start()
    assert execute("sleep 1000", 1000, ended).exit_code is None


def test_no_probe_runs_while_the_instance_is_paused() -> None:
    ended = os.eventfd(0)
    looks: list[int] = []

    def frozen() -> bool:
        looks.append(1)
        if len(looks) == 3:
            os.eventfd_write(ended, 1)
        return True

    monitor.follow(Checks(TIMING, 0), lambda: pytest.fail("probed"), lambda _: None, ended, frozen)


def test_a_monitor_follows_a_process_and_ends_with_it(tmp_path: Path) -> None:
    """The program itself, as a detached instance has it; who waits is woken by what it finds."""
    with process.spawn(["sleep", "1000"]) as command:
        started = process.start_time(command.pid)
        assert started is not None
        check = Healthcheck(("x",), interval=0.05, retries=100_000, start_interval=0.05)
        probe = ["sh", "-c", f"echo probed; test -e {tmp_path}/well"]
        job = monitor.Job(
            str(tmp_path),
            command.pid,
            started,
            time.monotonic_ns(),
            vars_of(health.timing(check)),
            probe,
            {"PATH": os.defpath},
        )
        watching = os.pidfd_open(command.pid)
        child = health.launch(job, "0123456789abcdef")
        with pytest.raises(NotReadyError, match=r"within 1 s .*exited with 1") as failure:
            health.wait_healthy(tmp_path, watching, 1)
        assert failure.value.tail == "probed"
        (tmp_path / "well").touch()
        assert health.wait_healthy(tmp_path, watching, 60) >= job.began
        assert health.read(tmp_path).status is Health.HEALTHY
        command.kill()
        assert child.wait(60) == 0
        os.close(watching)


def vars_of(timing: Timing) -> dict[str, float]:
    return {name: getattr(timing, name) for name in timing.__dataclass_fields__}


def test_a_monitor_of_a_process_that_has_gone_ends_at_once(tmp_path: Path) -> None:
    job = monitor.Job(str(tmp_path), os.getpid(), 1, 0, vars_of(TIMING), ["true"], {})
    assert health.launch(job, "0").wait(60) == 0
    assert not (tmp_path / monitor.FILE).exists()


def test_waiting_ends_with_the_command_or_with_a_verdict(tmp_path: Path) -> None:
    ended = os.eventfd(1)
    with pytest.raises(NotReadyError, match="ended before"):
        health.wait_healthy(tmp_path, ended, 60)
    values = {"Status": "unhealthy", "FailingStreak": 3, "Log": [{"ExitCode": -1, "Output": "x"}], "Passed": None}
    (tmp_path / monitor.FILE).write_text(json.dumps(values))
    with pytest.raises(NotReadyError, match=r"as often as it may .*did not end in time"):
        health.wait_healthy(tmp_path, ended, 60)


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / monitor.FILE).write_text('{"Status": "splendid"}')
    assert health.read(tmp_path).status is Health.STARTING


def test_the_monitor_needs_the_standard_library_only() -> None:
    script = f"import runpy; runpy.run_path({monitor.__file__!r}, run_name='x')"
    process.run([sys.executable, "-I", "-S", "-c", script])
