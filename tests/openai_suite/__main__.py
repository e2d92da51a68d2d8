"""Runs the tests that OpenAI's own client comes with against a simulated fleet: `python -m tests.openai_suite`.

They are those of the endpoints that are spoken here, out of the client's source package of the installed version, which
pip fetches. They were written for a mock server that takes whatever the API's description allows, and answers for every
id, so that some cannot pass. They run twice: as they are, and with ids of what there is. The table at the end, for
docs/compatibility.md, says what failed and why; `--table` prints that alone.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from tests.openai_suite.existing import put_into
from tests.openai_suite.fleet import serving
from tests.openai_suite.table import table

ROOT = Path(__file__).parents[2]
SUITES = (
    "chat",
    "conversations",
    "responses",
    "test_completions.py",
    "test_conversations.py",
    "test_embeddings.py",
    "test_models.py",
    "test_responses.py",
)
_MODEL = re.compile(r'model="([^"]+)"')


def main() -> None:
    """Fetches them, runs them, and says what became of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.openai_suite", description=__doc__)
    parser.add_argument("--table", action="store_true", help="print the table of docs/compatibility.md alone")
    only_table = parser.parse_args().table
    runs: list[list[dict[str, str]]] = []
    with tempfile.TemporaryDirectory(prefix="openai-suite-") as name:
        source = _source(Path(name))
        for is_changed in (False, True):
            for file in _files(source) if is_changed else ():
                put_into(file)
            outcomes = Path(name) / f"outcomes-{len(runs)}.json"
            said = asyncio.run(_run(source, outcomes))
            if not outcomes.exists():
                raise SystemExit(said)
            runs.append(json.loads(outcomes.read_text()))
            if not only_table:
                _print(runs[-1], "with ids of what there is" if is_changed else "as they are")
    as_they_are, with_ids = runs
    print(table(as_they_are, with_ids, version("openai")))  # noqa: T201 - it is for that


def _print(outcomes: list[dict[str, str]], what: str) -> None:
    for outcome in outcomes:
        print(f"{outcome['outcome']:8}{outcome['test']}  {outcome['reason']}")  # noqa: T201
    counted = Counter(outcome["outcome"] for outcome in outcomes)
    print(f"\nopenai {version('openai')}, {what}: {dict(counted)}\n")  # noqa: T201


def _source(folder: Path) -> Path:
    """The client's source package, unpacked."""
    wanted = ("--no-binary", ":all:", "--no-deps", f"openai=={version('openai')}")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *wanted, "-d", str(folder)], check=True)
    (archive,) = folder.glob("openai-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def _files(source: Path) -> list[Path]:
    paths = [source / "tests" / "api_resources" / suite for suite in SUITES]
    return [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("test_*.py")))]


async def _run(source: Path, outcomes: Path) -> str:
    """Runs them once; returns what pytest says."""
    files = _files(source)
    names = {name for file in files for name in _MODEL.findall(file.read_text())}
    async with serving(sorted(names)) as url:
        environment = {
            **os.environ,
            "TEST_API_BASE_URL": url,
            "OPENAI_SUITE_OUTCOMES": str(outcomes),
            "PYTHONPATH": str(ROOT / "tests" / "openai_suite"),
        }
        options = ("-o", "addopts=", "-o", "filterwarnings=", "-p", "plugin", "-q", "--no-header", "--tb=no")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pytest", *options, *map(str, files)),
            cwd=source,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    return said.decode()


if __name__ == "__main__":
    main()
