"""Making keys, and taking them out of a file, which keeps its comments."""

import secrets
from collections.abc import Sequence
from datetime import date

import yaml

from deployments.settings_file.problems import Problem, SettingsFileError
from deployments.tenants.key_file import KeyFile, hash_of, parse_key_file

_PREFIX = "sk-penstock-"
"""By which people, and scanners for leaked secrets, know one."""
_KEY_BYTES = 32
LEAST_ID_CHARS = 6


def new_key() -> str:
    """A key that nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def entry(tenant: str, key: str, expires: date | None) -> str:
    """What stands in the file for a tenant with that key: an item of `tenants`, in YAML."""
    until = "" if expires is None else f", expires: {expires.isoformat()}"
    return f"  - name: {tenant}\n    keys:\n      - {{sha256: {hash_of(key.encode())}{until}}}\n"


def without_key(text: str, name: str, id: str) -> tuple[str, str]:
    """The text of a file of keys without one of them, and whose it was.

    Args:
        text: The file's.
        name: What errors call it.
        id: The first digits of the key's hash, LEAST_ID_CHARS at least.

    Raises:
        SettingsFileError: The file is wrong; no key begins so, or several do; or the key stands where it cannot be
            taken out line by line.
    """
    file = parse_key_file(text, name)
    found = [
        (tenant, position, key.sha256)
        for tenant in file.tenants
        for position, key in enumerate(tenant.keys)
        if key.sha256.startswith(id.lower())
    ]
    if len(id) < LEAST_ID_CHARS or len(found) != 1:
        several = f"{len(found)} keys begin" if found else "no key begins"
        raise SettingsFileError(name, [Problem("", None, f"{several} with {id!r}; `penstock keys list` shows them")])
    [(tenant, position, key)] = found
    tenants = file.tenants
    lines = text.splitlines(keepends=True)
    items = _items(text, tenants.index(tenant))
    first, last = items[position]
    kept = [*lines[:first], *lines[last:]]
    if len(items) == 1:
        # A list without items is no list in YAML; and other than its items, it stands deeper than its key.
        kept[first:first] = [" " * (_indent(lines[first]) + 2) + "[]\n"]
    result = "".join(kept)
    if not _is_without(result, name, file, key):
        message = f"the key {key[:8]} of {tenant.name} cannot be taken out line by line; edit the file by hand"
        raise SettingsFileError(name, [Problem("", first + 1, message)])
    return result, tenant.name


def _items(text: str, tenant: int) -> Sequence[tuple[int, int]]:
    """Of each key of a tenant, the lines that it takes: from, and up to, counted from 0."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    tenants = next(value for key, value in root.value if key.value == "tenants")
    keys = next(value for key, value in tenants.value[tenant].value if key.value == "keys")
    return [(item.start_mark.line, _last_line(item) + 1) for item in keys.value]


def _last_line(node: yaml.Node) -> int:
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False):
        return int(node.end_mark.line)
    # Another mapping ends for YAML where the next thing begins, behind the comments.
    assert isinstance(node, yaml.MappingNode)
    return max(_last_line(part) for pair in node.value for part in pair)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_without(text: str, name: str, before: KeyFile, gone: str) -> bool:
    """Whether a file says what another one did, but for that key."""
    try:
        after = parse_key_file(text, name)
    except SettingsFileError:
        return False
    expected = [
        tenant.model_copy(update={"keys": [key for key in tenant.keys if key.sha256 != gone]})
        for tenant in before.tenants
    ]
    return after.tenants == expected
