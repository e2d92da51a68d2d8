"""What lives where."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from deployments.http.openai.chat import chat
from deployments.http.openai.completions import completions
from deployments.http.openai.embeddings import embeddings
from deployments.http.openai.models import model, models
from deployments.http.openai.tokens import detokenize, tokenize
from deployments.http.operations.probes import live, metrics, ray_health, ray_routes, ready
from deployments.http.server.exchange import Exchange
from deployments.http.server.refusals import MethodNotAllowed, NoSuchRoute

Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]

_MODEL_PREFIX = "/v1/models/"


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked.

    Attributes:
        name: Its name in metrics.
        method: HTTP method.
        handler: Answers it.
    """

    name: str
    method: str
    handler: Handler


_ROUTES = {
    "/v1/chat/completions": Route("/v1/chat/completions", "POST", chat),
    "/v1/completions": Route("/v1/completions", "POST", completions),
    "/v1/embeddings": Route("/v1/embeddings", "POST", embeddings),
    "/v1/models": Route("/v1/models", "GET", models),
    "/tokenize": Route("/tokenize", "POST", tokenize),
    "/detokenize": Route("/detokenize", "POST", detokenize),
    "/health": Route("/health", "GET", ready),
    "/live": Route("/live", "GET", live),
    "/ready": Route("/ready", "GET", ready),
    "/metrics": Route("/metrics", "GET", metrics),
    "/-/healthz": Route("/-/healthz", "GET", ray_health),
    "/-/routes": Route("/-/routes", "GET", ray_routes),
}
_MODEL = Route("/v1/models/{id}", "GET", model)


def find_route(method: str, path: str) -> tuple[Route, str]:
    """The route of a request, and the rest of its path.

    Raises:
        NoSuchRoute: Nothing lives at this path.
        MethodNotAllowed: It does not take this method.
    """
    route = _ROUTES.get(path)
    argument = ""
    if route is None and path.startswith(_MODEL_PREFIX):
        route = _MODEL
        argument = path.removeprefix(_MODEL_PREFIX)
    if route is None:
        raise NoSuchRoute(f"Nothing lives at {path[:200]}.")
    if method != route.method:
        # aiohttp leaves the body of an answer to HEAD out by itself.
        if method == "HEAD" and route.method == "GET":
            return route, argument
        raise MethodNotAllowed(method, path, (route.method,))
    return route, argument
