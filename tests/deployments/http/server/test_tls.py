"""The server over TLS: its certificate, another one without a restart, and clients that have to show theirs."""

import shutil
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deployments.fleet_settings import HttpSettings
from deployments.http.ingress import HttpIngress
from deployments.http.server import tls
from deployments.http.server.refusals import CannotListen
from deployments.local_fleet import LocalFleet
from deployments.metrics import Metrics
from tests.certificates import certificate
from tests.deployments.http.conftest import HELLO, Served, Serving, until

CHAT = {"model": "demo", "messages": HELLO}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A certificate that is looked at often."""
    monkeypatch.setattr(tls, "LOOK_S", 0.02)
    made, key = certificate(tmp_path)
    return {"certificate": str(made), "key": str(key)}


def another(tmp_path: Path, name: str) -> tuple[Path, Path]:
    (tmp_path / name).mkdir()
    return certificate(tmp_path / name)


def trusting(authority: Path | str, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    if own is not None:
        context.load_cert_chain(*own)
    return context


async def ask(served: Served, context: ssl.SSLContext, **fields: Any) -> str:
    """Asks on a connection of its own."""
    url = f"https://127.0.0.1:{served.ingress.port}/v1/chat/completions"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.post(url, json=CHAT | fields) as response,
    ):
        assert response.status == 200
        return await response.text()


async def test_it_proves_who_it_is_and_streams(serving: Serving, files: dict[str, str], tmp_path: Path) -> None:
    async with serving(["Hi"], tls=files) as served:
        assert "data: [DONE]" in await ask(served, trusting(files["certificate"]), stream=True)
        stranger, _ = another(tmp_path, "stranger")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(served, trusting(stranger))
        assert not (await served.raw(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP")


async def test_another_certificate_serves_at_once_and_a_broken_one_never(
    serving: Serving, files: dict[str, str], tmp_path: Path
) -> None:
    new, new_key = another(tmp_path, "new")
    async with serving(["Hi"], tls=files) as served:
        shutil.copy(new_key, files["key"])
        await until(lambda: bool(served.ingress._tls.problem))
        assert served.ingress._tls.problem.startswith("http.tls.key: ")
        assert "penstock_certificate_unreadable 1.0" in await served.metrics.text([])
        old = trusting(tmp_path / "certificate.pem")
        await ask(served, old)
        shutil.copy(new, files["certificate"])
        await until(lambda: not served.ingress._tls.problem)
        await ask(served, trusting(new))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(served, old)


async def test_only_clients_of_the_authority_are_let_in(
    serving: Serving, files: dict[str, str], tmp_path: Path
) -> None:
    client, stranger = another(tmp_path, "client"), another(tmp_path, "stranger")
    async with serving(["Hi"], tls=files | {"client_ca": str(client[0])}) as served:
        await ask(served, trusting(files["certificate"], client))
        for own in (None, stranger):
            with pytest.raises(aiohttp.ClientError):
                await ask(served, trusting(files["certificate"], own))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certificate": "nowhere.pem"}, r"http\.tls\.certificate: nowhere\.pem cannot be read: No such file"),
        ({"certificate": "text"}, r"http\.tls\.certificate: .*text holds no certificate in PEM"),
        ({"key": "text"}, r"http\.tls\.key: .*text holds no key in PEM that needs no password"),
        ({"key": "new/key.pem"}, r"http\.tls\.key: .*new/key\.pem is not the key of the certificate in "),
        ({"client_ca": "text"}, r"http\.tls\.client_ca: .*text holds no certificate in PEM"),
    ],
)
async def test_what_is_wrong_with_the_files_is_said_by_their_field(
    files: dict[str, str], tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    another(tmp_path, "new")
    (tmp_path / "text").write_text("no PEM")
    placed = {field: str(tmp_path / name) if name != "nowhere.pem" else name for field, name in changes.items()}
    settings = HttpSettings.model_validate({"port": 0, "tls": files | placed})
    with pytest.raises(CannotListen, match=message):
        await HttpIngress(LocalFleet({"demo": []}), settings, Metrics()).start()
