"""OpenAI's Realtime API."""

from deployments.http.openai.error_body import error_json
from deployments.http.realtime.socket import ENDPOINT, realtime
from deployments.http.server.api import Api, Endpoint

REALTIME = Api((Endpoint(ENDPOINT, "GET", realtime),), error_json)
