"""The fleet's secret: what one router replica seals or signs, every other one can open and verify; nobody else can.

From a file (`http.secret.file`), one secret a line, the newest first: that one seals and signs, and all of them open
and verify, so that it can be replaced step by step. Without a file the fleet makes one up and keeps it as long as it
lives.
"""

import base64
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from deployments.followed_file import READ_S, DiskReader, Follower
from deployments.settings_file.problems import SettingsFileError, read_text
from engines.errors import Unavailable

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often it is looked at where it comes from."""
MIN_CHARS = 32
"""A shorter secret might be guessed."""
_MAX_BYTES = 64 * 1024

Read = Callable[[], Awaitable[Sequence[bytes]]]
"""Gets the secrets, the newest first; raises Unavailable or SettingsFileError."""


class SecretUnavailable(Unavailable):
    """The server has no secret yet, and can neither seal nor open anything."""

    code = "secret_unavailable"


class FleetSecret:
    """Seals, opens, signs and verifies; each for a purpose, and what is of one is worth nothing for another.

    Args:
        read: Gets the secrets; None: there is one of this process alone.

    Attributes:
        problem: Why they cannot be read anew; those that were read before go on to hold. Empty: nothing is wrong.
    """

    def __init__(self, read: Read | None = None) -> None:
        self.problem = ""
        self._read = read
        self._keys: Sequence[_Keys] = [] if read is not None else [_Keys(new_secret())]
        self._follower: Follower | None = None

    async def start(self) -> None:
        """Reads them, and follows them from now on."""
        if self._read is not None:
            await self._look()
            self._follower = Follower(self._look, LOOK_S)

    async def stop(self) -> None:
        """Follows them no more."""
        if self._follower is not None:
            await self._follower.stop()

    def seal(self, purpose: str, data: bytes) -> str:
        """What only `open` reads, made of letters, digits, `-` and `_`.

        Raises:
            SecretUnavailable: There is no secret yet.
        """
        self.check()
        return self._keys[0].fernet(purpose).encrypt(data).decode().rstrip("=")

    def open(self, purpose: str, sealed: str) -> bytes | None:
        """What was sealed; None: this is nothing that was sealed for that purpose.

        Raises:
            SecretUnavailable: There is no secret yet.
        """
        self.check()
        token = sealed + "=" * (-len(sealed) % 4)
        try:
            return MultiFernet([keys.fernet(purpose) for keys in self._keys]).decrypt(token.encode())
        except (InvalidToken, UnicodeEncodeError):
            return None

    def sign(self, purpose: str, data: bytes) -> str:
        """What only this fleet can have said of these data.

        Raises:
            SecretUnavailable: There is no secret yet.
        """
        self.check()
        return base64.urlsafe_b64encode(self._keys[0].digest(purpose, data)).decode().rstrip("=")

    def verify(self, purpose: str, data: bytes, signature: str) -> bool:
        """Whether the signature is this fleet's, of these data for that purpose.

        Raises:
            SecretUnavailable: There is no secret yet.
        """
        self.check()
        try:
            given = base64.b64decode(signature + "=" * (-len(signature) % 4), b"-_", validate=True)
        except ValueError:
            return False
        return any(hmac.compare_digest(keys.digest(purpose, data), given) for keys in self._keys)

    def check(self) -> None:
        """Returns if there is a secret: what has begun as a stream could not be refused any more.

        Raises:
            SecretUnavailable: There is none yet.
        """
        if not self._keys:
            message = "The server cannot read its secret, and can do this only when it has."
            raise SecretUnavailable(message, retry_after_s=LOOK_S).hiding(self.problem)

    async def _look(self) -> None:
        assert self._read is not None
        try:
            found = list(await self._read())
        except (SettingsFileError, TimeoutError, Unavailable) as error:
            problem = str(error) or f"nothing came for {READ_S:g} s"
            if problem != self.problem:
                logger.error("The fleet's secret cannot be read: %s", problem)
            self.problem = problem
            return
        if found != [keys.secret for keys in self._keys]:
            self._keys = [_Keys(secret) for secret in found]
        self.problem = ""


class SecretFile:
    """Secrets in a file, one a line, the newest first.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = DiskReader(self._read)

    async def __call__(self) -> Sequence[bytes]:
        """What is in it.

        Raises:
            SettingsFileError: It cannot be read.
            Unavailable: There is none in it, or one that is too short.
            TimeoutError: The disk does not answer.
        """
        return await self._reader.read()

    def _read(self) -> Sequence[bytes]:
        lines = [line.strip() for line in read_text(self._path, _MAX_BYTES).splitlines()]
        found = [line.encode() for line in lines if line and not line.startswith("#")]
        if not found:
            raise Unavailable(f"{self._path}: there is no secret in it")
        if any(len(secret) < MIN_CHARS for secret in found):
            raise Unavailable(f"{self._path}: a secret has at least {MIN_CHARS} characters; `openssl rand -hex 32`")
        return found


def new_secret() -> bytes:
    """One that nobody guesses."""
    return secrets.token_hex(32).encode()


class _Keys:
    """The keys that come of one secret, one for each purpose."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._fernets: dict[str, Fernet] = {}
        self._signing: dict[str, bytes] = {}

    def fernet(self, purpose: str) -> Fernet:
        if purpose not in self._fernets:
            self._fernets[purpose] = Fernet(base64.urlsafe_b64encode(self._derived(f"seal {purpose}")))
        return self._fernets[purpose]

    def digest(self, purpose: str, data: bytes) -> bytes:
        if purpose not in self._signing:
            self._signing[purpose] = self._derived(f"sign {purpose}")
        return hmac.digest(self._signing[purpose], data, "sha256")

    def _derived(self, purpose: str) -> bytes:
        return HKDF(SHA256(), length=32, salt=b"penstock", info=purpose.encode()).derive(self.secret)
