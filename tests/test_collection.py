"""Finding out which tests there are takes no package whose import takes seconds."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLOW = ("vllm", "torch", "transformers", "langchain_openai", "agents")
COLLECT = f"""
import sys, pytest
assert pytest.main(["--collect-only", "-qq", *sys.argv[1:]]) == 0
sys.exit([name for name in {SLOW} if name in sys.modules] or 0)
"""


def test_no_slow_package_is_imported_to_collect() -> None:
    command = [sys.executable, "-c", COLLECT, "tests/engines/vllm", "tests/contract", "tests/clusters"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, f"import them as tests/lazily.py says: {done.stderr}"
