"""What the guard lets pass: a server of this machine plays the internet, on an address that counts as public here."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from engines.attachments import url_fetcher
from engines.attachments.url_fetcher import UrlFetcher, UrlSettings, is_public
from engines.errors import AttachmentRefused
from tests.engines.attachments.pictures import png

x509 = pytest.importorskip("cryptography.x509")

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
PACKED = gzip.compress(bytes(100_000), mtime=0)
NAMES = {"pictures.example": [PUBLIC], "other.example": [PUBLIC], "inside.example": [PRIVATE]}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that vouches for itself, with its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pictures.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(autouse=True)
def internet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_fetcher, "is_public", lambda address: address == PUBLIC)


class Internet:
    """A server, and the names that lead to it.

    Attributes:
        asked: The names that were resolved.
        port: Of the server.
    """

    def __init__(self, certificate: Path, port: int, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self.asked: list[str] = []
        self.port = port
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self._names = {name: iter(answers) for name, answers in names.items()}

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host in self._names:
            return next(self._names[host])
        if host not in NAMES:
            raise OSError("no such name")
        return NAMES[host]

    def url(self, path: str, host: str = "pictures.example") -> str:
        return f"https://{host}:{self.port}{path}"

    async def fetch(self, url: str, max_bytes: int = 10_000, **settings: Any) -> tuple[str, bytes]:
        fetcher = UrlFetcher(UrlSettings(**settings), self.resolve, self._tls, self.port)
        return await fetcher.fetch(url, max_bytes)

    async def refused(self, url: str, max_bytes: int = 10_000, **settings: Any) -> str:
        with pytest.raises(AttachmentRefused) as caught:
            await self.fetch(url, max_bytes, **settings)
        assert PUBLIC not in caught.value.message and PRIVATE not in caught.value.message
        return caught.value.message


@asynccontextmanager
async def serving(
    certificate: Path, handler: Any, names: Mapping[str, Sequence[Sequence[str]]] | None = None
) -> AsyncIterator[Internet]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(
        runner,
        PUBLIC,
        0,
        ssl_context=tls,
    )
    await site.start()
    try:
        yield Internet(certificate, runner.addresses[0][1], names or {})
    finally:
        await runner.cleanup()


async def picture(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=png(), content_type="image/png")


async def test_fetches_from_the_address_that_was_checked(certificate: Path) -> None:
    # A name that leads elsewhere the next time that it is asked for.
    names = {"pictures.example": [[PUBLIC], [PRIVATE]]}
    async with serving(certificate, picture, names) as internet:
        assert await internet.fetch(internet.url("/a.png#b")) == ("image/png", png())
        assert internet.asked == ["pictures.example"]
        assert "not public" in await internet.refused(internet.url("/a.png"))


@pytest.mark.parametrize("addresses", [[PRIVATE], [PUBLIC, PRIVATE], ["::ffff:127.0.0.1"], []])
async def test_every_address_must_be_public(certificate: Path, addresses: list[str]) -> None:
    async with serving(certificate, picture, {"pictures.example": [addresses]}) as internet:
        assert "not public" in await internet.refused(internet.url("/a.png"))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "169.254.169.254",
        "10.0.0.1",
        # Full-width digits and an ideographic stop, which names are read with.
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
    ],
)
async def test_addresses_in_urls_are_checked_without_asking_anybody(certificate: Path, host: str) -> None:
    async with serving(certificate, picture) as internet:
        assert "not public" in await internet.refused(internet.url("/a.png", host))
        assert not internet.asked


ODD = ["2130706433", "0x7f.1", "0177.0.0.1", "0", "127.0.0.1.", "127.1", "localhost", "pictures.example%00.evil"]


@pytest.mark.parametrize("host", [*ODD, "nowhere.example", "xn--", "-", "a" * 300 + ".example"])
async def test_odd_names_lead_where_the_resolver_says(certificate: Path, host: str) -> None:
    async with serving(certificate, picture, {name: [[PRIVATE]] for name in ODD}) as internet:
        await internet.refused(internet.url("/a.png", host))


async def test_nothing_is_added_to_the_request_by_its_path(certificate: Path) -> None:
    asked: list[web.BaseRequest] = []

    async def listening(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        return await picture(request)

    async with serving(certificate, listening) as internet:
        await internet.fetch(internet.url("/a.png\r\nX-Injected: 1\r\n\r\nGET /b"))
    (request,) = asked
    assert "X-Injected" not in request.headers
    assert "Authorization" not in request.headers and "Cookie" not in request.headers


@pytest.mark.parametrize(
    "url",
    [
        "http://pictures.example/a.png",
        "ftp://pictures.example/a.png",
        "file:///etc/passwd",
        "https:///a.png",
        "https://pictures.example:22/a.png",
        "https://user:word@pictures.example/a.png",
        "https://[::1/a.png",
        "https://127.0.0.1@pictures.example/a.png",
        "https://pictures.example\\@127.0.0.1/a.png",
        "https://pictures.example\r\nHost: x/a.png",
        "https://pictures.example:443:22/a.png",
        "https:pictures.example/a.png",
        "data:image/png;base64,AAAA",
        "gopher://pictures.example/_GET",
        "//pictures.example/a.png",
        "",
        "https://pictures.example/" + "a" * 9000,
    ],
)
async def test_other_urls_are_refused_before_anything_is_asked(certificate: Path, url: str) -> None:
    async with serving(certificate, picture) as internet:
        await internet.refused(url.replace(".example/", f".example:{internet.port}/"))
        assert not internet.asked


async def test_only_the_hosts_of_the_fleet_file_are_asked(certificate: Path) -> None:
    async with serving(certificate, picture) as internet:
        for hosts in (["pictures.example"], ["PICTURES.example"], [".example"]):
            assert (await internet.fetch(internet.url("/"), hosts=hosts))[1] == png()
        for hosts in (["other.example"], ["example"], ["tures.example"], [".pictures.example"]):
            assert "Nothing is fetched" in await internet.refused(internet.url("/"), hosts=hosts)


async def test_redirects_are_followed_so_far_and_each_is_checked(certificate: Path) -> None:
    async def redirecting(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/a.png":
            return await picture(request)
        target = request.query["to"] if "to" in request.query else f"/{int(request.path[1:]) - 1}"
        return web.Response(status=302, headers={"Location": "/a.png" if target == "/0" else target})

    async with serving(certificate, redirecting) as internet:
        assert (await internet.fetch(internet.url("/3"), max_redirects=3))[1] == png()
        assert "more than 2 times" in await internet.refused(internet.url("/3"), max_redirects=2)
        there = internet.url("/a.png", "other.example")
        assert (await internet.fetch(internet.url(f"/?to={there}")))[1] == png()
        for target, says in (
            (internet.url("/a.png", "inside.example"), "not public"),
            (internet.url("/a.png", "127.0.0.1"), "not public"),
            (f"http://pictures.example:{internet.port}/a.png", "must be of https"),
            ("https://pictures.example:1/a.png", "must be of https"),
            ("file:///etc/passwd", "must be of https"),
        ):
            assert says in await internet.refused(internet.url(f"/?to={target}"))
        assert "Nothing" in await internet.refused(internet.url(f"/?to={there}"), hosts=["pictures.example"])


@pytest.mark.parametrize("chunked", [False, True])
async def test_no_more_is_read_than_may_be(certificate: Path, chunked: bool) -> None:
    async def large(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        if not chunked:
            response.content_length = 10_001
        await response.prepare(request)
        await response.write(bytes(10_001))
        return response

    async with serving(certificate, large) as internet:
        assert "10000 bytes" in await internet.refused(internet.url("/"))
        assert len((await internet.fetch(internet.url("/"), 10_001))[1]) == 10_001


async def test_a_server_that_does_not_answer_is_given_up(certificate: Path) -> None:
    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    async with serving(certificate, silent) as internet:
        assert "within 0.3 s" in await internet.refused(internet.url("/"), timeout_s=0.3)


async def test_what_is_wrong_with_the_other_end_is_told_by_its_kind(certificate: Path) -> None:
    async def wrong(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/gone":
            return web.Response(status=404)
        return web.Response(body=PACKED, headers={"Content-Encoding": "gzip", "Content-Type": "image/png"})

    async with serving(certificate, wrong) as internet:
        assert "answers 404" in await internet.refused(internet.url("/gone"))
        assert (await internet.fetch(internet.url("/packed")))[1] == PACKED
        untrusting = UrlFetcher(None, internet.resolve, None, internet.port)
        with pytest.raises(AttachmentRefused, match="Certificate"):
            await untrusting.fetch(internet.url("/gone"), 10)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"]
)
@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "::{}", "64:ff9b::{}"])
def test_private_addresses_however_they_are_written(address: str, form: str) -> None:
    assert not is_public(form.format(address))


@pytest.mark.parametrize(
    "address",
    [
        "100.64.0.1",
        "192.0.0.8",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fc00::1",
        "fec0::1",
        "3fff::1",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "2002:7f00:1::",  # 6to4 and Teredo stand for an address of IPv4.
        "2001:0:7f00:1::",
        "64:ff9b:1::a00:1",
    ],
)
def test_addresses_that_are_nobodys(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_of_ipv4_is_as_public_inside_of_ipv6(address: Any) -> None:
    assert is_public(f"::ffff:{address}") is is_public(str(address))
