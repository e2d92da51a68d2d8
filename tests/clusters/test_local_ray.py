"""The Ray of a local fleet: its token, and what keeps it on loopback."""

import os
import stat
from pathlib import Path

import pytest

from clusters.errors import ClusterError
from clusters.local_ray import auth_mode, keep_token_private, loopback_environment
from tests.clusters.conftest import Terminal


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_can_be_read_by_its_user_only(home: Path) -> None:
    before = os.umask(0)
    try:
        keep_token_private()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert (mode_of(token), mode_of(token.parent)) == (0o600, 0o700)
    assert list(token.parent.iterdir()) == [token]


def test_a_token_that_ray_has_made_is_closed_and_kept(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.parent.chmod(0o777)
    token.write_text("a token")
    token.chmod(0o644)
    keep_token_private()
    assert (token.read_text(), mode_of(token), mode_of(token.parent)) == ("a token", 0o600, 0o755)


def test_a_token_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_token_private()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(ClusterError, match=r"belongs to another user .* RAY_AUTH_TOKEN_PATH"):
        keep_token_private()


def test_a_token_that_the_user_names_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = home / "token"
    named.write_text("a token")
    named.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    keep_token_private()
    assert mode_of(named) == 0o644
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(("inherited", "mode"), [(None, "token"), ("", "token"), ("token", "token")])
def test_ray_asks_for_a_token(monkeypatch: pytest.MonkeyPatch, inherited: str | None, mode: str) -> None:
    if inherited is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", inherited)
    assert auth_mode(asks_for_token=True) == mode


def test_without_one_only_where_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ClusterError, match=r"RAY_AUTH_MODE=disabled .* --no-ray-auth"):
        auth_mode(asks_for_token=True)
    assert auth_mode(asks_for_token=False) == "disabled"


def test_serve_refuses_an_inherited_mode_without_a_token(terminal: Terminal, port: int) -> None:
    terminal.environment["RAY_AUTH_MODE"] = "disabled"
    done = terminal.run("serve", terminal.fleet_file(), "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith("RAY_AUTH_MODE=disabled in the environment")
    assert terminal.processes() == []


def test_the_flag_is_for_local_fleets(terminal: Terminal) -> None:
    done = terminal.run("serve", terminal.fleet_file(), "--address", "127.0.0.1:1", "--no-ray-auth")
    assert done.returncode == 1
    assert done.stderr.startswith("--no-ray-auth is for a local fleet")


def test_what_the_user_says_of_engines_holds_and_of_ray_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HOST_IP", "192.0.2.1")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    environment = loopback_environment()
    assert environment["VLLM_HOST_IP"] == "192.0.2.1"
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
