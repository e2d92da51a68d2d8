"""The APIs that are spoken here. A new one is a package beside `openai`, and its line in `_APIS`."""

import re
from collections.abc import Iterable

from deployments.http.anthropic.api import ANTHROPIC
from deployments.http.openai.api import OPENAI
from deployments.http.operations.probes import PROBES
from deployments.http.realtime.api import REALTIME
from deployments.http.responses.api import RESPONSES
from deployments.http.scoring.api import SCORING
from deployments.http.server.api import ID, Api, Endpoint, ErrorText
from deployments.http.server.exchange import Services
from deployments.http.server.refusals import MethodNotAllowed, NoSuchRoute
from deployments.http.server.request_id import HEADER
from deployments.http.server.worker import Worker

DEFAULT_ERROR_TEXT: ErrorText = OPENAI.error_text
"""For those of whom nobody can tell what they speak: probes, and who asks for nothing that there is."""

_APIS = (OPENAI, SCORING, RESPONSES, REALTIME, ANTHROPIC, Api(PROBES, DEFAULT_ERROR_TEXT))

_Methods = dict[str, tuple[Api, Endpoint]]
"""What lives at one path, by method."""


def _by_path(apis: Iterable[Api]) -> dict[str, _Methods]:
    found: dict[str, _Methods] = {}
    for api in apis:
        for endpoint in api.endpoints:
            found.setdefault(endpoint.path, {})[endpoint.method] = (api, endpoint)
    return found


def _pattern(path: str) -> re.Pattern[str]:
    *inside, end = path.split(ID)
    # An id inside of a path is one segment of it; one at the end, such as a model's name, may hold slashes.
    start = "([^/]+)".join(map(re.escape, inside))
    return re.compile(f"{start}([^/]+){re.escape(end)}" if end else f"{start}(.*)", re.DOTALL)


_EXACT = _by_path(_APIS)
# The more of a path is fixed, the earlier: an id at its end would take what follows it, too.
_WITH_IDS = [(_pattern(path), _EXACT.pop(path)) for path in sorted(_EXACT, key=len, reverse=True) if ID in path]


def find_endpoint(method: str, path: str) -> tuple[Endpoint, tuple[str, ...]]:
    """The endpoint of a request, and the ids in its path.

    Raises:
        NoSuchRoute: Nothing lives at this path.
        MethodNotAllowed: It does not take this method.
    """
    found, ids = _find(path)
    if found is None:
        raise NoSuchRoute(f"Nothing lives at {path[:200]}.")
    # aiohttp leaves the body of an answer to HEAD out by itself.
    known = found.get(method) or (found.get("GET") if method == "HEAD" else None)
    if known is None:
        raise MethodNotAllowed(method, path, tuple(found))
    return known[1], ids


def make_workers(services: Services) -> list[Worker]:
    """What the APIs do besides answering."""
    made = (api.worker(services) for api in _APIS)
    return [worker for worker in made if worker is not None]


def error_text(path: str) -> ErrorText:
    """How whoever asks at this path reads errors."""
    api = _api(path)
    return DEFAULT_ERROR_TEXT if api is None else api.error_text


def id_header(path: str) -> str:
    """In which header whoever asks at this path looks for the request's id."""
    api = _api(path)
    return HEADER if api is None else api.id_header


def _api(path: str) -> Api | None:
    found, _ = _find(path)
    return None if found is None else next(iter(found.values()))[0]


def _find(path: str) -> tuple[_Methods | None, tuple[str, ...]]:
    exact = _EXACT.get(path)
    if exact is not None:
        return exact, ()
    for pattern, found in _WITH_IDS:
        match = pattern.fullmatch(path)
        if match is not None:
            return found, match.groups()
    return None, ()
