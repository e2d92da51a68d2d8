"""What load balancers, Kubernetes, KubeRay and Prometheus ask."""

import json

from aiohttp import web

from deployments.http.server.api import Endpoint
from deployments.http.server.exchange import Exchange, json_response
from deployments.metrics import CONTENT_TYPE


async def live(exchange: Exchange) -> web.StreamResponse:
    """The process answers; also while it drains."""
    return json_response('{"status":"live"}')


async def ready(exchange: Exchange) -> web.StreamResponse:
    """It should be sent new requests, or not (503)."""
    services = exchange.services
    status = services.readiness.status(services.fleet, draining=services.draining, has_keys=services.keys.is_ready)
    response = json_response(json.dumps({"status": status}))
    if status != "ready":
        response.set_status(503)
        response.headers["Retry-After"] = "1"
    return response


async def ray_health(exchange: Exchange) -> web.StreamResponse:
    """What Ray Serve's own proxy answers to KubeRay and to load balancers."""
    return web.Response(status=503 if exchange.services.draining else 200, text="success")


async def ray_routes(exchange: Exchange) -> web.StreamResponse:
    """What Ray Serve's own proxy answers: route prefixes, and the applications behind them."""
    return json_response(json.dumps({"/": exchange.fleet.name}))


async def metrics(exchange: Exchange) -> web.StreamResponse:
    """The fleet's figures, for Prometheus."""
    text = await exchange.services.metrics.text(exchange.fleet.instances())
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


PROBES = (
    Endpoint("/health", "GET", ready),
    Endpoint("/live", "GET", live),
    Endpoint("/ready", "GET", ready),
    Endpoint("/metrics", "GET", metrics, is_operators=True),
    Endpoint("/-/healthz", "GET", ray_health),
    Endpoint("/-/routes", "GET", ray_routes, is_operators=True),
)
