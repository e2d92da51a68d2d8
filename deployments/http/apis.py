"""The APIs that are spoken here. A new one is a package beside `openai`, and its line in `_APIS`."""

from deployments.http.anthropic.api import ANTHROPIC
from deployments.http.openai.api import OPENAI
from deployments.http.operations.probes import PROBES
from deployments.http.realtime.api import REALTIME
from deployments.http.server.api import REST, Api, Endpoint, ErrorText
from deployments.http.server.refusals import MethodNotAllowed, NoSuchRoute
from deployments.http.server.request_id import HEADER

DEFAULT_ERROR_TEXT: ErrorText = OPENAI.error_text
"""For those of whom nobody can tell what they speak: probes, and who asks for nothing that there is."""

_APIS = (OPENAI, REALTIME, ANTHROPIC, Api(PROBES, DEFAULT_ERROR_TEXT))

_ALL = [(api, endpoint) for api in _APIS for endpoint in api.endpoints]
_EXACT = {found[1].path: found for found in _ALL if not found[1].path.endswith(REST)}
_PREFIXED = {found[1].path.removesuffix(REST): found for found in _ALL if found[1].path.endswith(REST)}


def find_endpoint(method: str, path: str) -> tuple[Endpoint, str]:
    """The endpoint of a request, and the rest of its path.

    Raises:
        NoSuchRoute: Nothing lives at this path.
        MethodNotAllowed: It does not take this method.
    """
    found, argument = _find(path)
    if found is None:
        raise NoSuchRoute(f"Nothing lives at {path[:200]}.")
    _, endpoint = found
    # aiohttp leaves the body of an answer to HEAD out by itself.
    if method != endpoint.method and not (method == "HEAD" and endpoint.method == "GET"):
        raise MethodNotAllowed(method, path, (endpoint.method,))
    return endpoint, argument


def error_text(path: str) -> ErrorText:
    """How whoever asks at this path reads errors."""
    found, _ = _find(path)
    return DEFAULT_ERROR_TEXT if found is None else found[0].error_text


def id_header(path: str) -> str:
    """In which header whoever asks at this path looks for the request's id."""
    found, _ = _find(path)
    return HEADER if found is None else found[0].id_header


def _find(path: str) -> tuple[tuple[Api, Endpoint] | None, str]:
    exact = _EXACT.get(path)
    if exact is not None:
        return exact, ""
    for prefix, found in _PREFIXED.items():
        if path.startswith(prefix):
            return found, path.removeprefix(prefix)
    return None, ""
