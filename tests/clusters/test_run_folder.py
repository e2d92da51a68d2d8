"""Folders of runs, on a machine where somebody else plants things in `/tmp`."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from clusters import run_folder
from clusters.errors import ClusterError
from clusters.run_folder import MARK, new_folder
from deployments.private_folder import NotPrivate

ENDED = "999999999"
"""No process has this id."""


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `/tmp` is; no XDG_RUNTIME_DIR."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(run_folder, "_temp_folder", lambda: folder)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user that has nothing to do with any of this."""
    folder = tmp_path / "precious"
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "chapter").write_text("years of work")
    folder.chmod(0o700)
    return folder


def is_whole(precious: Path) -> bool:
    return (precious / "thesis" / "chapter").read_text() == "years of work"


def old_runs(root: Path, prefix: str, count: int, mark: str | None = ENDED) -> list[Path]:
    folders = []
    for number in range(count):
        folder = root / f"{prefix}old{number}"
        folder.mkdir(mode=0o700)
        (folder / "fleet.log").touch()
        if mark is not None:
            (folder / MARK).write_text(mark)
        os.utime(folder, (number, number))
        folders.append(folder)
    return folders


def ours() -> str:
    return f"penstock-{os.getuid()}-"


def test_it_is_this_users_alone_whatever_the_umask(temp: Path) -> None:
    before = os.umask(0)
    try:
        folder = new_folder()
    finally:
        os.umask(before)
    assert folder.parent == temp
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert (folder / MARK).read_text() == str(os.getpid())


def test_the_oldest_runs_are_removed_and_five_are_left(temp: Path) -> None:
    old = old_runs(temp, ours(), 7)
    new = new_folder()
    assert sorted(temp.iterdir()) == sorted([*old[-4:], new])


def test_a_run_whose_process_lives_stays(temp: Path) -> None:
    old = old_runs(temp, ours(), 7, mark=str(os.getpid()))
    new_folder()
    assert all(folder.is_dir() for folder in old)


def test_a_link_planted_where_runs_were_kept_leads_nowhere(temp: Path, precious: Path) -> None:
    (temp / f"penstock-{os.getuid()}").symlink_to(precious)
    old_runs(precious, "", 7, mark=None)
    new_folder()
    assert is_whole(precious)
    assert len(list(precious.iterdir())) == 8


def test_links_planted_as_runs_are_not_followed_and_not_removed(temp: Path, precious: Path) -> None:
    (precious / MARK).write_text(ENDED)
    links = [temp / f"{ours()}link{number}" for number in range(7)]
    for link in links:
        link.symlink_to(precious)
    new_folder()
    assert is_whole(precious)
    assert all(link.is_symlink() for link in links)


def test_a_link_in_an_old_run_is_not_followed(temp: Path, precious: Path) -> None:
    old = old_runs(temp, ours(), 7)
    (old[0] / "session_latest").symlink_to(precious)
    os.utime(old[0], (0, 0))
    new_folder()
    assert not old[0].exists()
    assert is_whole(precious)


@pytest.mark.parametrize("spoil", ["unmarked", "link", "mode", "owner"])
def test_what_is_not_ours_is_never_removed(temp: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = old_runs(temp, ours(), 7, mark=None if spoil == "unmarked" else ENDED)
    for folder in old:
        match spoil:
            case "link":
                (folder / "elsewhere").write_text(ENDED)
                (folder / MARK).unlink()
                (folder / MARK).symlink_to(folder / "elsewhere")
            case "mode":
                folder.chmod(0o770)
            case "owner":
                # As another user sees them; the prefix is that of the folders.
                monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
                folder.rename(folder.with_name(folder.name.replace(ours(), f"penstock-{os.geteuid()}-")))
    before = sorted(temp.iterdir())
    made = Path(tempfile.mkdtemp(dir=temp))  # Whatever is made now, the rest stays.
    new = new_folder()
    assert sorted(temp.iterdir()) == sorted([*before, made, new])


def test_they_are_in_the_users_runtime_folder_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        old = old_runs(_made(Path(runtime) / "penstock"), "", 7)
        new = new_folder()
        assert sorted((Path(runtime) / "penstock").iterdir()) == sorted([*old[-4:], new])


@pytest.mark.parametrize("spoil", ["mode", "link", "long", "missing"])
def test_a_runtime_folder_that_is_not_the_users_alone_is_not_used(
    temp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as there:
        runtime = Path(there)
        match spoil:
            case "mode":
                runtime.chmod(0o755)
            case "link":
                runtime = runtime / "l"
                runtime.symlink_to(tmp_path)
            case "long":
                runtime = _made(tmp_path / ("x" * 40))
            case _:
                runtime = runtime / "none"
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert new_folder().parent == temp


def test_a_link_planted_in_the_runtime_folder_is_refused(monkeypatch: pytest.MonkeyPatch, precious: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        (Path(runtime) / "penstock").symlink_to(precious)
        with pytest.raises(NotPrivate, match=r"must be a folder of yours alone, .* symbolic link\. Remove it"):
            new_folder()
        assert is_whole(precious)


def test_a_temp_folder_in_which_others_can_replace_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    tmp_path.chmod(0o777)
    monkeypatch.setattr(run_folder, "Path", lambda _: tmp_path)
    with pytest.raises(ClusterError, match=r"sticky bit is not set \(`chmod \+t .* XDG_RUNTIME_DIR"):
        new_folder()


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True)
    return folder
