"""The list of files in docs/architecture.md is true to the tree."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("engines", "actors", "deployments", "clusters")


def test_names_every_file_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"^\| `([^`]+\.py)` \|", page, flags=re.MULTILINE)
    there = [
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert sorted(named) == sorted(there)
