import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments import followed_file
from deployments.tenants import keys as keys_module
from deployments.tenants.followed_keys import KeysOfFile, PushedKeys
from deployments.tenants.key_file import MAX_BYTES, hash_of
from deployments.tenants.keys import Keys, KeysOfEnvironment, NoKeys
from engines.context import Context
from engines.errors import Unauthorized, Unavailable
from tests.deployments.tenants.key_files import key_file
from tests.deployments.waiting import until


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "LOOK_S", 0.01)


def name_of(keys: Keys, key: str) -> str:
    return keys.holder(key.encode()).tenant.name


def is_refused(keys: Keys, key: str) -> bool:
    try:
        keys.holder(key.encode())
    except Unauthorized:
        return True
    return False


@pytest.mark.parametrize(
    ("value", "is_asked_for", "is_open", "is_ready"),
    [
        (None, False, True, True),
        (None, True, False, False),
        ("", False, False, False),
        (" , ,", False, False, False),
        ("a, b,", False, False, True),
    ],
)
def test_a_source_that_was_meant_and_holds_nothing_lets_nobody_in(
    monkeypatch: pytest.MonkeyPatch, value: str | None, is_asked_for: bool, is_open: bool, is_ready: bool
) -> None:
    monkeypatch.delenv("TEST_KEYS", raising=False)
    if value is not None:
        monkeypatch.setenv("TEST_KEYS", value)
    keys = KeysOfEnvironment("TEST_KEYS", is_asked_for=is_asked_for)
    assert (keys.is_open, keys.is_ready) == (is_open, is_ready)
    if is_open:
        assert keys.holder(None).tenant.is_admin
    elif is_ready:
        assert name_of(keys, "a") == name_of(keys, "b") == "default"
        assert is_refused(keys, "c") and is_refused(keys, "")
    else:
        assert "TEST_KEYS" in keys.problem
        for key in (None, b"", b"a"):
            with pytest.raises(NoKeys):
                keys.holder(key)


async def test_a_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(a={}))
    keys = KeysOfFile(file)
    await keys.start()
    assert name_of(keys, "a-key") == "a"
    # As Kubernetes replaces a mounted secret: another file comes in its place.
    new = tmp_path / "new.yaml"
    new.write_text(key_file(b={}))
    new.replace(file)
    await until(lambda: is_refused(keys, "a-key"))
    assert name_of(keys, "b-key") == "b" and not keys.problem
    await keys.stop()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text("tenants: {"),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text("#" * (MAX_BYTES + 1)),
        lambda file: file.unlink(),
    ],
    ids=["no yaml", "no text", "too large", "gone"],
)
async def test_a_file_that_breaks_leaves_the_last_good_one(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(a={}))
    keys = KeysOfFile(file)
    await keys.start()
    damage(file)
    await until(lambda: bool(keys.problem))
    assert str(file) in keys.problem
    assert name_of(keys, "a-key") == "a" and keys.is_ready
    file.write_text(key_file(b={}))
    await until(lambda: not keys.problem)
    assert name_of(keys, "b-key") == "b" and is_refused(keys, "a-key")
    await keys.stop()


async def test_who_takes_the_last_key_out_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(a={}))
    keys = KeysOfFile(file)
    await keys.start()
    context = Context()
    with keys.running(keys.holder(b"a-key"), context):
        file.write_text("tenants: [{name: a}]")
        await until(lambda: context.is_killed)
    assert not keys.is_ready and "no tenant has a key" in keys.problem
    with pytest.raises(NoKeys):
        keys.holder(b"a-key")
    await keys.stop()


async def test_a_file_that_is_not_there_lets_nobody_in_until_it_is(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys = KeysOfFile(file)
    await keys.start()
    assert not keys.is_ready and keys.problem
    with pytest.raises(NoKeys):
        keys.holder(b"a-key")
    file.write_text(key_file(a={}))
    await until(lambda: keys.is_ready)
    assert name_of(keys, "a-key") == "a"
    await keys.stop()


async def test_a_file_that_cannot_be_read_in_time_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed_file, "READ_S", 0.05)
    file = tmp_path / "keys.yaml"
    # Opening it waits for a writer, as reading from a disk that is gone waits for the disk.
    os.mkfifo(file)
    keys = KeysOfFile(file)
    await keys.start()
    assert "nothing came" in keys.problem and not keys.is_ready
    reading = keys._reader._reading
    await asyncio.sleep(0.2)  # What must not happen has had the time to: another thread that waits.
    assert keys._reader._reading is reading
    # What comes late counts all the same.
    with file.open("w") as pipe:
        pipe.write(key_file(a={}))
    await until(lambda: keys.is_ready)
    assert name_of(keys, "a-key") == "a"
    await keys.stop()
    # Lets the thread that waits, if there is one, go.
    os.close(os.open(file, os.O_RDWR))


async def test_what_runs_ends_with_its_key_and_nothing_else_does(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(key_file(a={}, b={}))
    keys = KeysOfFile(file)
    await keys.start()
    of_a, of_b = Context(), Context()
    with keys.running(keys.holder(b"a-key"), of_a), keys.running(keys.holder(b"b-key"), of_b):
        # A tenant that changes and keeps its key goes on.
        file.write_text(key_file(b={"max_n": 1}))
        await until(lambda: of_a.is_killed)
        assert not of_b.is_stopped
        assert keys.holder(b"b-key").tenant.max_n == 1
    assert not keys._running
    await keys.stop()


async def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    text = key_file(a={})
    file.write_text(text.replace("- sha256:", "- expires: 2020-01-01\n    sha256:"))
    keys = KeysOfFile(file)
    await keys.start()
    with pytest.raises(Unauthorized, match="expired"):
        keys.holder(b"a-key")
    await keys.stop()


class Sent:
    """What was sent to a fleet, and whether it can be asked for."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.answers = True
        self.carried = 0

    async def ask(self, known: str) -> tuple[str, bytes | None]:
        if not self.answers:
            raise Unavailable("The directory does not answer.")
        digest = "" if self.content is None else hash_of(self.content)
        new = self.content if digest != known else None
        self.carried += new is not None
        return digest, new


async def test_what_was_sent_holds_until_other_keys_are_sent() -> None:
    sent = Sent()
    keys = PushedKeys(sent.ask)
    await keys.start()
    assert (keys.is_ready, keys.problem) == (False, "No keys were sent yet: `penstock keys push KEYS.yaml`.")
    sent.content = key_file(a={}).encode()
    await until(lambda: keys.is_ready)
    assert (name_of(keys, "a-key"), keys.problem) == ("a", "")
    # The directory dies, and what is sent next is no file of keys: the last good ones hold.
    sent.answers = False
    await until(lambda: bool(keys.problem))
    sent.answers, sent.content = True, b"tenants: {"
    await until(lambda: "this is no YAML" in keys.problem)
    assert name_of(keys, "a-key") == "a"
    sent.content = key_file(b={}).encode()
    await until(lambda: is_refused(keys, "a-key"))
    assert (name_of(keys, "b-key"), keys.problem) == ("b", "")
    carried = sent.carried
    await asyncio.sleep(0.1)  # What must not happen has had the time to: it is not carried again and again.
    assert sent.carried == carried
    await keys.stop()
