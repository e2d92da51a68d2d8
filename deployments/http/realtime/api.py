"""OpenAI's Realtime API."""

from deployments.http.openai_common.error_body import error_json
from deployments.http.realtime import client_secrets, socket
from deployments.http.server.api import Api, Endpoint

REALTIME = Api(
    (
        Endpoint(socket.ENDPOINT, "GET", socket.realtime, holder=client_secrets.holder_of_secret),
        Endpoint(client_secrets.ENDPOINT, "POST", client_secrets.client_secrets),
    ),
    error_json,
)
