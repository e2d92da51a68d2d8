"""The locks cover what pyproject.toml asks for, and `scripts/install` takes no file whose hash they do not name."""

import base64
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCKS = {path.stem: path for path in (ROOT / "locks").glob("*.txt") if path.stem != "left-out-cpu"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
LOCKED = re.compile(r"(?P<requirement>[^ \\][^\\]*)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})*)\n")


def entries(lock: str) -> list[tuple[Requirement, int]]:
    """The requirements of a lock, each with its number of hashes. Whatever else is in it is an error."""
    text = re.sub(r"^#.*\n", "", LOCKS[lock].read_text(), flags=re.MULTILINE)
    found = list(LOCKED.finditer(text))
    assert "".join(match[0] for match in found) == text
    return [(Requirement(match["requirement"]), match["hashes"].count("--hash")) for match in found]


def versions(*locks: str) -> dict[str, list[tuple[Requirement, Version]]]:
    found: dict[str, list[tuple[Requirement, Version]]] = defaultdict(list)
    for requirement, _ in itertools.chain.from_iterable(map(entries, locks)):
        (pin,) = requirement.specifier
        found[canonicalize_name(requirement.name)].append((requirement, Version(pin.version)))
    return found


def asked_for(*extras: str) -> list[Requirement]:
    """What pyproject.toml names itself, the extras of its own that it asks for included."""
    texts = list(PYPROJECT["project"]["dependencies"])
    for extra in extras:
        texts += PYPROJECT["project"]["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, texts):
        found += asked_for(*requirement.extras) if requirement.name == "penstock" else [requirement]
    return found


ACCELERATORS = {"cpu": ("cpu", "torch-cpu"), "gpu": ("gpu",)}


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_each_package_has_one_version_and_hashes(lock: str) -> None:
    assert entries(lock)
    for requirement, hashes in entries(lock):
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert requirement.url is None, requirement
        assert hashes, requirement


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_has_what_is_asked_for(accelerator: str, python: str) -> None:
    linux = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    locked = versions(*ACCELERATORS[accelerator])
    wanted = [*asked_for(accelerator, "dev"), *map(Requirement, PYPROJECT["build-system"]["requires"])]
    for requirement in wanted:
        found = [
            version
            for entry, version in locked[canonicalize_name(requirement.name)]
            if entry.marker is None or entry.marker.evaluate(linux)
        ]
        assert len(found) == 1, f"{requirement}: `make lock` pins what pyproject.toml asks for"
        assert requirement.specifier.contains(found[0], prereleases=True), (requirement, found)


def test_every_extra_is_locked() -> None:
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    asked = map(Requirement, PYPROJECT["project"]["optional-dependencies"]["dev"])
    dev = {extra for one in asked if one.name == "penstock" for extra in one.extras}
    assert extras >= dev
    assert extras - dev == {*ACCELERATORS, "dev"}


def test_both_locks_have_the_same_versions_of_what_is_asked_for() -> None:
    locks = [versions(*ACCELERATORS[accelerator]) for accelerator in ACCELERATORS]
    for requirement in asked_for("dev"):
        one, other = ({version for _, version in lock[canonicalize_name(requirement.name)]} for lock in locks)
        assert one == other, requirement


def test_torch_is_of_one_version_and_its_cpu_build_is_meant() -> None:
    (cpu,), (gpu,) = (versions(lock)["torch"] for lock in ("torch-cpu", "gpu"))
    assert cpu[1].local == "cpu"
    assert cpu[1].public == str(gpu[1])
    assert "torch" not in versions("cpu")


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> str:
    """Makes a wheel with these files; returns its line in a lock."""
    stem = f"{name}-{version}"
    info = f"{stem}.dist-info"
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{info}/RECORD,,"]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            member = zipfile.ZipInfo(file)
            member.external_attr = 0o100755 << 16  # uv's script is to be run
            archive.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join(record) + "\n")
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("venv") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    return path


@pytest.fixture
def checkout(tmp_path: Path, empty_venv: Path) -> Path:
    """A project of two tiny packages, one of them called torch, with our `scripts/install` and the pinned uv."""
    root, wheels = tmp_path / "checkout", tmp_path / "wheels"
    for folder in (root / "scripts", root / "locks", wheels):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "install", root / "scripts")
    shutil.copy(ROOT / "locks" / "left-out-cpu.txt", root / "locks")
    shutil.copytree(empty_venv, root / ".venv", symlinks=True, copy_function=os.link)

    uv = Path(sys.prefix) / "bin" / "uv"
    ((_, version),) = versions("uv")["uv"]
    assert subprocess.run([uv, "--version"], capture_output=True, text=True).stdout.split()[1] == str(version)
    script = {f"uv-{version}.data/scripts/uv": f'#!/bin/sh\nexec {uv} "$@"\n'}
    (root / "locks" / "uv.txt").write_text(wheel(wheels, "uv", str(version), script))
    (root / "locks" / "cpu.txt").write_text(wheel(wheels, "tiny", "1.0", {"tiny.py": ""}))
    (root / "locks" / "torch-cpu.txt").write_text(wheel(wheels, "torch", "2.0+cpu", {"torch.py": ""}))

    # The project asks for what no lock has, and needs nothing to be built: its backend has the wheel.
    wheel(root, "project", "1.0", {"project.pth": f"{root}\n"})
    (root / "backend.py").write_text(
        "import shutil\n"
        "def build_editable(folder, *_):\n"
        f"    return shutil.copy('{root}/project-1.0-py3-none-any.whl', folder).rpartition('/')[2]\n"
    )
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "project"\nversion = "1.0"\ndependencies = ["nowhere"]\n'
    )
    return root


def install(checkout: Path) -> subprocess.CompletedProcess[str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_"))}
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    places = {"PIP_FIND_LINKS": str(checkout.parent / "wheels"), "UV_CACHE_DIR": str(checkout.parent / "cache")}
    return subprocess.run(
        [checkout / "scripts" / "install", "cpu"], env=ours | offline | places, capture_output=True, text=True
    )


def installed(checkout: Path) -> set[str]:
    (packages,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    return {path.name.partition("-")[0] for path in packages.glob("*.dist-info")} - {"pip", "setuptools"}


def test_what_the_locks_name_is_installed(checkout: Path) -> None:
    ended = install(checkout)
    assert ended.returncode == 0, ended.stderr
    assert installed(checkout) == {"uv", "tiny", "torch", "project"}


def tamper(text: str) -> str:
    return re.sub("sha256:.{8}", "sha256:00000000", text)


@pytest.mark.parametrize(
    ("lock", "change", "said", "stays_out"),
    [
        ("uv", tamper, "DO NOT MATCH THE HASHES", "uv"),
        ("cpu", tamper, "Hash mismatch for `tiny==1.0`", "tiny"),
        ("torch-cpu", tamper, "Hash mismatch for `torch==2.0+cpu`", "torch"),
        ("uv", lambda text: text.partition(" ")[0], "Hashes are required", "uv"),
        ("cpu", lambda text: text.partition(" ")[0], "all requirements must have a hash", "tiny"),
    ],
    ids=["uv-tampered", "package-tampered", "torch-tampered", "uv-without", "package-without"],
)
def test_what_is_not_as_locked_is_refused(
    checkout: Path, lock: str, change: Callable[[str], str], said: str, stays_out: str
) -> None:
    path = checkout / "locks" / f"{lock}.txt"
    path.write_text(change(path.read_text()))
    ended = install(checkout)
    assert ended.returncode != 0
    assert said in ended.stderr
    assert not {stays_out, "project"} & installed(checkout)


def test_nothing_is_built_from_sources(checkout: Path) -> None:
    wheels = checkout.parent / "wheels"
    (wheels / "tiny-1.0-py3-none-any.whl").unlink()
    sources = checkout.parent / "tiny-1.0"
    sources.mkdir()
    shutil.copy(checkout / "pyproject.toml", sources)
    (sources / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    archive = Path(shutil.make_archive(str(wheels / "tiny-1.0"), "gztar", checkout.parent, sources.name))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (checkout / "locks" / "cpu.txt").write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    ended = install(checkout)
    assert ended.returncode != 0
    assert "building from source is disabled" in ended.stderr
