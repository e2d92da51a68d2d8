"""Requests to AWS signed with Signature Version 4, by botocore and with the credentials that botocore finds."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, TypeVar

from engines.errors import EngineFailed, NotReady, PenstockError, ProviderRefused, Unavailable

Result = TypeVar("Result")


class AwsSigner:
    """Signs requests to one service.

    Credentials come from botocore's own chain (environment, files, container, instance role, ...), which also refreshes
    them. That may mean to read files, to run programs, or to wait for other servers: a thread of its own does it, and
    no other work of the process waits with it.

    Args:
        engine: Name of the engine, for errors.
        service: The service's name in signatures.
        region: Its region.
    """

    def __init__(self, engine: str, service: str, region: str) -> None:
        self._engine = engine
        self._service = service
        self._region = region
        self._thread: ThreadPoolExecutor | None = None
        self._credentials: Any = None

    async def open(self) -> None:
        """Finds the credentials.

        Raises:
            EngineFailed: botocore is not installed.
            ProviderRefused: There are none.
        """
        if self._credentials is not None:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"signing for {self._engine}")
        try:
            self._credentials = await self._beside(_find_credentials)
        except PenstockError as error:
            raise error.at(self._engine) from None

    def close(self) -> None:
        """Forgets the credentials."""
        thread, self._thread, self._credentials = self._thread, None, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    async def signed(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> dict[str, str]:
        """The headers of a request with its signature, which holds for some minutes.

        Args:
            method: Its method.
            url: Its URL, exactly as it is sent.
            headers: Its headers; none that is given here may be changed afterwards.
            data: Its body.

        Raises:
            NotReady: It is not open.
            Unavailable: The credentials could not be refreshed.
        """
        return await self._beside(lambda: self._sign(method, url, headers, data))

    def _sign(self, method: str, url: str, headers: Mapping[str, str], data: bytes | None) -> dict[str, str]:
        auth, awsrequest = import_module("botocore.auth"), import_module("botocore.awsrequest")
        request = awsrequest.AWSRequest(method=method, url=url, data=data, headers=dict(headers))
        try:
            frozen = self._credentials.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - whatever the source of the credentials raises
            raise Unavailable(_failed("refreshed", error), instance=self._engine) from None
        auth.SigV4Auth(frozen, self._service, self._region).add_auth(request)
        return dict(request.headers.items())

    async def _beside(self, work: Callable[[], Result]) -> Result:
        if self._thread is None:
            raise NotReady(f"The engine {self._engine} is not ready.", instance=self._engine)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _find_credentials() -> Any:
    try:
        session = import_module("botocore.session")
    except ImportError:
        raise EngineFailed("botocore is not installed: `pip install 'penstock[bedrock]'`.") from None
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        # Its debug log has tokens in it: who wants all of the root logger's must not get those unasked.
        logger.setLevel(logging.INFO)
    try:
        credentials = session.Session().get_credentials()
    except Exception as error:  # noqa: BLE001 - whatever the source of the credentials raises
        raise ProviderRefused(_failed("found", error), reason="unauthorized") from None
    if credentials is None:
        raise ProviderRefused("There are no AWS credentials.", reason="unauthorized")
    return credentials


def _failed(what: str, error: Exception) -> str:
    # Its text may have paths, addresses and worse in it.
    return f"The AWS credentials could not be {what}: {type(error).__name__}."
