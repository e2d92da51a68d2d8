"""What is sealed and signed with the fleet's secret."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.directory.kept_values import MemoryValues
from deployments import fleet_secret
from deployments.fleet_secret import FleetSecret, SecretFile, SecretUnavailable, new_secret
from tests.deployments.http.conftest import until

OLD, NEW = "o" * 40, "n" * 40


async def of_file(path: Path) -> FleetSecret:
    secret = FleetSecret(SecretFile(path))
    await secret.start()
    return secret


@given(st.binary(max_size=200), st.text(max_size=200))
def test_what_was_sealed_is_opened_and_nothing_else(data: bytes, other: str) -> None:
    secret = FleetSecret()
    sealed = secret.seal("a", data)
    assert secret.open("a", sealed) == data
    assert secret.open("b", sealed) is None
    assert secret.open("a", other) is None
    assert FleetSecret().open("a", sealed) is None


@given(st.binary(max_size=200), st.text(max_size=200))
def test_a_signature_is_of_its_data_and_its_purpose(data: bytes, other: str) -> None:
    secret = FleetSecret()
    signature = secret.sign("a", data)
    assert secret.verify("a", data, signature)
    assert not secret.verify("a", data + b"x", signature)
    assert not secret.verify("b", data, signature)
    assert not secret.verify("a", data, other)
    assert not FleetSecret().verify("a", data, signature)


async def test_a_secret_is_replaced_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_secret, "LOOK_S", 0.01)
    path = tmp_path / "secret"
    path.write_text(f"{OLD}\n")
    secret = await of_file(path)
    sealed, signature = secret.seal("a", b"data"), secret.sign("a", b"data")
    path.write_text(f"# since today\n{NEW}\n{OLD}\n")
    other = await of_file(path)
    await until(lambda: secret.open("a", other.seal("a", b"")) is not None)
    await other.stop()
    assert secret.open("a", sealed) == b"data"
    assert secret.verify("a", b"data", signature)
    path.write_text(f"{NEW}\n")
    await until(lambda: secret.open("a", sealed) is None)
    assert not secret.verify("a", b"data", signature)
    await secret.stop()


@pytest.mark.parametrize("content", [None, "", "too short\n"])
async def test_one_that_cannot_be_read_says_so_and_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(fleet_secret, "LOOK_S", 0.01)
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    secret = await of_file(path)
    assert secret.problem
    with pytest.raises(SecretUnavailable):
        secret.seal("a", b"data")
    with pytest.raises(SecretUnavailable):
        secret.verify("a", b"data", "")
    path.write_text(NEW)
    await until(lambda: not secret.problem)
    sealed = secret.seal("a", b"data")
    # One that was read once goes on to hold.
    path.unlink()
    await until(lambda: bool(secret.problem))
    assert secret.open("a", sealed) == b"data"
    await secret.stop()


async def test_replicas_that_have_no_file_agree_on_one() -> None:
    values = MemoryValues()

    async def read() -> Sequence[bytes]:
        return [values.agree("secret", new_secret())]

    one, two = FleetSecret(read), FleetSecret(read)
    await one.start()
    await two.start()
    assert two.open("a", one.seal("a", b"data")) == b"data"
    await one.stop()
    await two.stop()
