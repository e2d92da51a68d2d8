import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deployments.private_folder import NotPrivate
from deployments.run_file import FleetNotFound, RunFile, find_fleet, http_url, running_fleets


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def other_pid() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def run_file(port: int, pid: int | None = None, created_s: float | None = None) -> RunFile:
    pid = os.getpid() if pid is None else pid
    created_s = psutil.Process(pid).create_time() if created_s is None else created_s
    return RunFile(name="f", pid=pid, pid_created_s=created_s, host="127.0.0.1", port=port, logs=Path("/tmp/x"))


def test_the_only_fleet_is_found_without_a_port() -> None:
    run_file(8000).write()
    assert find_fleet().url == "http://127.0.0.1:8000"


def test_of_several_fleets_the_port_decides() -> None:
    run_file(8000).write()
    run_file(8001).write()
    with pytest.raises(FleetNotFound, match=r"8000, 8001\. Say which one: --port"):
        find_fleet()
    assert find_fleet(8001).port == 8001


def test_no_fleet_says_how_to_start_one() -> None:
    with pytest.raises(FleetNotFound, match="penstock serve"):
        find_fleet()


def test_a_file_of_a_dead_process_means_nothing(other_pid: int) -> None:
    run_file(8000, other_pid).write()
    psutil.Process(other_pid).kill()
    psutil.wait_procs([psutil.Process(other_pid)], timeout=10)
    assert running_fleets() == []


def test_a_process_that_took_the_id_over_is_not_the_fleet(other_pid: int) -> None:
    run_file(8000, other_pid, created_s=1.0).write()
    assert running_fleets() == []


def test_a_damaged_file_means_nothing(tmp_path: Path) -> None:
    run_file(8000).write()
    (tmp_path / "penstock" / "8001.json").write_text("{")
    assert [fleet.port for fleet in running_fleets()] == [8000]


def test_removing_leaves_another_ones_file_alone(other_pid: int) -> None:
    run_file(8000, other_pid).write()
    run_file(8000).remove()
    assert find_fleet().pid == other_pid


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("name", "http://name:80"),
    ],
)
def test_the_url_is_one_that_this_machine_can_reach(host: str, url: str) -> None:
    assert http_url(host, 80) == url


def test_the_files_are_this_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run_file(8000).write()
    finally:
        os.umask(before)
    assert (tmp_path / "penstock").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "penstock" / "8000.json").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    (tmp_path / "penstock").mkdir()
    (tmp_path / "penstock").chmod(0o755)
    assert running_fleets() == []
    assert (tmp_path / "penstock").stat().st_mode & 0o777 == 0o700


def test_a_planted_folder_is_refused_by_readers_and_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file(8000).write()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(NotPrivate, match="belongs to another user"):
        find_fleet()
    with pytest.raises(NotPrivate, match="belongs to another user"):
        run_file(8001).write()


def test_a_planted_link_is_refused_by_readers_and_writers(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "penstock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPrivate, match="symbolic link"):
        find_fleet()
    with pytest.raises(NotPrivate, match="symbolic link"):
        run_file(8000).write()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("planted", ["link", "writable", "pipe"])
def test_a_planted_file_means_nothing(tmp_path: Path, planted: str) -> None:
    run_file(8000).write()
    path = tmp_path / "penstock" / "8000.json"
    match planted:
        case "link":
            path.rename(tmp_path / "elsewhere.json")
            path.symlink_to(tmp_path / "elsewhere.json")
        case "writable":
            path.chmod(0o666)
        case _:
            path.unlink()
            os.mkfifo(path)
    assert running_fleets() == []


def test_a_link_where_it_is_written_is_replaced_and_not_followed(tmp_path: Path) -> None:
    run_file(8001).write()
    (tmp_path / "precious").write_text("years of work")
    for name in ("8000.json", f".8000.json.{os.getpid()}.new"):
        (tmp_path / "penstock" / name).symlink_to(tmp_path / "precious")
    run_file(8000).write()
    assert find_fleet(8000).port == 8000
    assert (tmp_path / "precious").read_text() == "years of work"
