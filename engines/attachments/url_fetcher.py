"""The guard that URLs of callers pass: https, public addresses and those only, and no more than so much of anything.

A caller's URL makes our machine speak to where the caller points, which may be inside of our own network. So the name
is resolved here, every address that it has must be public, and the connection is made to those addresses and no others:
a name that resolves otherwise a moment later changes nothing. A redirect is a new URL, and passes the same checks.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from socket import AF_INET, AF_INET6, SOCK_STREAM
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from engines.errors import AttachmentRefused

HTTPS_PORT = 443
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PIECE_BYTES = 64 * 1024
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # For protocols.
        "192.88.99.0/24",  # Relays of 6to4, which stand for other addresses.
        "fec0::/10",  # Addresses of one site, as `fc00::/7` has them today.
        "3fff::/20",  # For documentation.
    )
)
"""What Python's own registry of addresses takes for public, in some of its versions."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises OSError where it has none."""


class UrlSettings(BaseModel):
    """Which URLs are fetched, and what that may take.

    Attributes:
        hosts: From these hosts only; `.example.com` means every host below that name. Empty: from every public one.
        timeout_s: What one URL may take, redirects included.
        max_redirects: How many of them are followed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hosts: list[str] = []
    timeout_s: float = Field(10.0, gt=0, le=300)
    max_redirects: int = Field(3, ge=0, le=20)


class UrlFetcher:
    """Fetches what callers point to.

    Args:
        settings: What is fetched.
        resolve: Asks for the addresses of a name; None: as the operating system does.
        tls: Which certificates are trusted; None: as the operating system does.
        port: The one port that URLs may name.
    """

    def __init__(
        self,
        settings: UrlSettings | None = None,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = HTTPS_PORT,
    ) -> None:
        self._settings = settings or UrlSettings()
        self._resolve = resolve or _resolved
        self._tls = tls
        self._port = port

    async def fetch(self, url: str, max_bytes: int) -> tuple[str, bytes]:
        """What is there: the media type that its server declares, and the data.

        Raises:
            AttachmentRefused: It must not be fetched, or could not be, within the limits.
        """
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout_s):
                target = _parsed(url)
                for _ in range(settings.max_redirects + 1):
                    found = await self._get(target, max_bytes)
                    if not isinstance(found, URL):
                        return found
                    target = found
        except TimeoutError:
            raise AttachmentRefused(f"The URL could not be fetched within {settings.timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a redirect to what is no URL
            # What the other end does wrong is told by its kind only: the rest may name addresses of ours.
            raise AttachmentRefused(f"The URL could not be fetched: {type(error).__name__}.") from error
        raise AttachmentRefused(f"The URL redirects more than {settings.max_redirects} times.")

    async def _get(self, url: URL, max_bytes: int) -> tuple[str, bytes] | URL:
        """One answer: the data, or where it redirects to."""
        addresses = await self._addresses(url)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses), use_dns_cache=False, ssl=self._tls if self._tls is not None else True
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # A compressed body may unpack to any size.
                trust_env=False,
            ) as session,
            session.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status in _REDIRECTS and "Location" in response.headers:
                return url.join(URL(response.headers["Location"]))
            if response.status != 200:
                raise AttachmentRefused(f"The URL could not be fetched: its server answers {response.status}.")
            return response.content_type.lower(), await _body(response, max_bytes)

    async def _addresses(self, url: URL) -> Sequence[str]:
        """Where a URL leads to.

        Raises:
            AttachmentRefused: It must not be fetched.
        """
        host = url.host
        if url.scheme != "https" or host is None or url.port != self._port or url.user or url.password:
            raise AttachmentRefused("A URL must be of https, on its usual port, and without a user.")
        if not self._may_ask(host):
            raise AttachmentRefused(f"Nothing is fetched from the host {host[:253]!r} here.")
        try:
            # aiohttp asks no resolver about an address, so that is looked at here, too.
            addresses: Sequence[str] = [str(ip_address(host))]
        except ValueError:
            addresses = await self._resolve(host)
        if not addresses or not all(is_public(address) for address in addresses):
            raise AttachmentRefused("The URL leads to an address that is not public.")
        return addresses

    def _may_ask(self, host: str) -> bool:
        hosts = [name.lower() for name in self._settings.hosts]
        name = host.lower().rstrip(".")
        return not hosts or any(name == one or (one.startswith(".") and name.endswith(one)) for one in hosts)


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet: none that stands for another one but IPv4's in IPv6."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC))


class _Pinned(AbstractResolver):
    """Knows the addresses of one connection, and asks nobody."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """The addresses, whatever the name."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=AF_INET6 if ":" in address else AF_INET,
                proto=0,
                flags=0,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """There is nothing to release."""


async def _resolved(host: str) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, HTTPS_PORT, type=SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    too_large = AttachmentRefused(f"What the URL leads to has more than the {max_bytes} bytes that are left for it.")
    if (response.content_length or 0) > max_bytes:
        raise too_large
    pieces = []
    size = 0
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        size += len(piece)
        if size > max_bytes:
            raise too_large
        pieces.append(piece)
    return b"".join(pieces)


def _parsed(url: str) -> URL:
    if len(url) > 8192:
        raise AttachmentRefused("The URL is too long.")
    try:
        return URL(url)
    except ValueError:
        raise AttachmentRefused("It is no URL.") from None
