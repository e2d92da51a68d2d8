"""What the documentation shows works: its fleet files are right, and its programs import what there is."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from clusters.fleet_file import parse_fleet

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """The blocks of a language, with the names of their pages."""
    found = []
    for page in PAGES:
        found += [(page.name, text) for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)]
    return found


FLEETS = [(page, text) for page, text in blocks("yaml") if text.startswith("models:")]


@pytest.mark.parametrize(("page", "text"), FLEETS, ids=[page for page, _ in FLEETS])
def test_a_fleet_file_is_right(page: str, text: str) -> None:
    assert parse_fleet(text, page, ROOT).models


PROGRAMS = blocks("python")


@pytest.mark.parametrize(("page", "text"), PROGRAMS, ids=[page for page, _ in PROGRAMS])
def test_a_program_imports_what_there_is(page: str, text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("engines", "deployments")):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), (page, ast.unparse(node))


def test_there_are_some_of_both() -> None:
    assert {page for page, _ in FLEETS} >= {"README.md", "composing.md"}
    assert {page for page, _ in PROGRAMS} >= {"README.md", "composing.md"}


ATTACKS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "security.md").read_text())))


@pytest.mark.parametrize(("path", "name"), ATTACKS, ids=[f"{path}::{name}" for path, name in ATTACKS])
def test_an_attack_has_the_test_that_is_named(path: str, name: str) -> None:
    defined = [
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
    ]
    assert name in defined if name else defined
