"""TLS of the server: its certificate, and whose clients it lets in; read again when the files change."""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

from deployments.fleet_settings import TlsSettings
from deployments.followed_file import Follower, Mark, mark_of
from deployments.http.server.refusals import CannotListen

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often the files are looked at."""
HANDSHAKE_S = 10.0
"""What a client gets for the handshake."""


class ServerTls:
    """Makes new connections with what the files say now; those that are open go on with what they began with.

    Args:
        settings: Which files.

    Raises:
        CannotListen: They cannot be read, or do not belong together; names the field.

    Attributes:
        context: For the listener.
        problem: Why the files cannot be used anew; empty: they can. What was read before goes on to hold.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self.problem = ""
        self._settings = settings
        self._seen = self._marks()
        self._follower: Follower | None = None
        try:
            self.context = _load(_new_context(settings), settings)
        except OSError as error:
            raise CannotListen(_problem(settings, error)) from error

    async def start(self) -> None:
        """Follows the files from now on."""
        self._follower = Follower(self._look, LOOK_S)

    async def stop(self) -> None:
        """Follows them no more."""
        if self._follower is not None:
            await self._follower.stop()

    async def _look(self) -> None:
        marks = await asyncio.to_thread(self._marks)
        if marks == self._seen and not self.problem:
            return
        self._seen = marks
        try:
            # What is half written must not get into the context that serves.
            await asyncio.to_thread(lambda: _load(_new_context(self._settings), self._settings))
            _load(self.context, self._settings)
        except OSError as error:
            problem = _problem(self._settings, error)
            if problem != self.problem:
                logger.error("The certificate is not read anew: %s", problem)
            self.problem = problem
        else:
            self.problem = ""
            logger.info("The certificate was read: %s", self._settings.certificate)

    def _marks(self) -> Sequence[Mark | None]:
        names = (self._settings.certificate, self._settings.key, self._settings.client_ca)
        return [mark_of(Path(name)) for name in names if name is not None]


def _new_context(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, settings: TlsSettings) -> ssl.SSLContext:
    """Puts what is in the files into a context. Raises OSError, of which `ssl.SSLError` is one."""
    # A key that asks for a password would ask the terminal.
    context.load_cert_chain(settings.certificate, settings.key, password="")
    if settings.client_ca is not None:
        context.load_verify_locations(settings.client_ca)
    return context


def _problem(settings: TlsSettings, error: OSError) -> str:
    """Which file it is, and what is wrong with it."""
    for field in ("certificate", "key", "client_ca"):
        name = getattr(settings, field)
        if name is not None:
            try:
                Path(name).read_bytes()
            except OSError as unreadable:
                return f"http.tls.{field}: {name} cannot be read: {unreadable.strerror}."
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"http.tls.key: {settings.key} is not the key of the certificate in {settings.certificate}."
    try:
        _new_context(settings).load_verify_locations(settings.certificate)
    except OSError:
        return f"http.tls.certificate: {settings.certificate} holds no certificate in PEM."
    if settings.client_ca is not None:
        try:
            _new_context(settings).load_verify_locations(settings.client_ca)
        except OSError:
            return f"http.tls.client_ca: {settings.client_ca} holds no certificate in PEM."
    return f"http.tls.key: {settings.key} holds no key in PEM that needs no password."
