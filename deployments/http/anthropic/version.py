"""The version of the API that a client speaks."""

from aiohttp import web

from engines.errors import InvalidRequest

HEADER = "anthropic-version"
VERSIONS = ("2023-06-01", "2026-10-21")
"""Their answers are the same. The later one has no temperature, which models here may be asked for all the same."""


def check_version(request: web.BaseRequest) -> None:
    """Lets a request pass that speaks one of these versions, or does not say which.

    Raises:
        InvalidRequest: It speaks another one, whose answers may look otherwise.
    """
    version = request.headers.get(HEADER)
    if version is not None and version not in VERSIONS:
        raise InvalidRequest(
            f"{HEADER}: {version[:40]!r} is not spoken here; send one of {', '.join(VERSIONS)}.", param=HEADER
        )
