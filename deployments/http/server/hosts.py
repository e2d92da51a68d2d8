"""Host names that the server answers to: a web page must not reach a local fleet by a name of its own (DNS rebinding).

A page of `evil.example` whose name is made to lead to 127.0.0.1 is of the same origin as what listens there, so CORS
does not keep it out. Its requests say `Host: evil.example`, and a page cannot change that.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from aiohttp import hdrs, web

from deployments.http.server.refusals import UnknownHost

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]*)?")


class Hosts:
    """Lets requests pass whose Host header is one of the server's names.

    Without names in the settings it asks only where the server listens on loopback and asks for no key.

    Args:
        host: The address to listen on, which is one, too.
        names: The names that the settings have (`http.hosts`).
        keyed: Whether the server asks for a key.
    """

    __slots__ = ("_any", "_asks", "_domains", "_keyed", "_named", "_names")

    def __init__(self, host: str, names: Sequence[str], *, keyed: bool) -> None:
        self._any = "*" in names
        self._named = bool(names)
        self._keyed = keyed
        self._names = _LOOPBACK | {_plain(name) for name in (host, *names)}
        self._domains = tuple(name.removeprefix("*") for name in self._names if name.startswith("*."))
        self._asks = self._named and not self._any

    def listens_on(self, addresses: Sequence[str]) -> None:
        """Says on which addresses the server listens."""
        on_loopback = all(ip_address(address.partition("%")[0]).is_loopback for address in addresses)
        self._asks = not self._any and (self._named or (on_loopback and not self._keyed))

    def check(self, request: web.BaseRequest) -> None:
        """Lets the request pass.

        One without the header passes: probes in HTTP/1.0 have none, and browsers always send it.

        Raises:
            UnknownHost: It asks for another host.
        """
        if not self._asks:
            return
        hosts = request.headers.getall(hdrs.HOST, [])
        # A target in absolute form (`GET http://host/path`) says it again, and goes before the header.
        target = request._message.url
        for given in [*hosts, target.raw_authority] if target.absolute else hosts:
            found = _HOST.fullmatch(given.lower())
            name = "" if found is None else _plain(found[1])
            if name not in self._names and not name.endswith(self._domains):
                raise UnknownHost(given, listed=self._named)


def _plain(name: str) -> str:
    """A name as names are compared: in lower case, without the brackets of an IPv6 address and the dot of the root."""
    return name.lower().removeprefix("[").removesuffix("]").removesuffix(".")
