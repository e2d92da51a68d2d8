"""`penstock keys`, as a person types it."""

import re
import stat
import subprocess
import sys
from pathlib import Path

from deployments.tenants.key_file import hash_of, parse_keys


def keys(*arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "clusters", "keys", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def test_a_key_from_its_making_to_its_end(tmp_path: Path) -> None:
    code, said, _ = keys("new", "search", "--expires", "2999-01-01")
    assert code == 0
    found = re.search(r"^sk-penstock-\S+$", said, re.MULTILINE)
    assert found is not None
    file = tmp_path / "keys.yaml"
    file.write_text("# ours\n" + said[said.index("tenants:") :])
    file.chmod(0o640)
    digest = hash_of(found[0].encode())
    assert parse_keys(file.read_text(), "")[digest].tenant.name == "search"

    code, listed, _ = keys("list", file)
    assert code == 0 and "search" in listed and digest[:8] in listed and "2999-01-01" in listed
    assert found[0] not in listed

    code, _, _ = keys("revoke", file, digest[:8])
    assert code == 0
    assert parse_keys(file.read_text(), "") == {} and file.read_text().startswith("# ours\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [other.name for other in tmp_path.iterdir()] == ["keys.yaml"]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("tenants: [{name: a, keys: secret}]")
    for arguments, said in [
        (("new", "a b"), "NAME: 'a b'"),
        (("new", "a", "--expires", "soon"), "--expires: 'soon'"),
        (("list", tmp_path / "none.yaml"), "there is no such file"),
        (("list", broken), "broken.yaml:1: tenants[0].keys"),
        (("revoke", broken, "0123abcd"), "broken.yaml:1: tenants[0].keys"),
    ]:
        code, out, err = keys(*arguments)
        assert (code, out) == (1, ""), err
        assert said in err and len(err.strip().splitlines()) == 1, err
