"""OpenAI's API, with what vLLM's server adds to it."""

from deployments.http.openai import stored_chat
from deployments.http.openai.chat import chat
from deployments.http.openai.completions import completions
from deployments.http.openai.embeddings import embeddings
from deployments.http.openai.models import model, models
from deployments.http.openai.tokens import detokenize, tokenize
from deployments.http.openai_common.error_body import error_json
from deployments.http.server.api import ID, Api, Endpoint

_CHAT = "/v1/chat/completions/" + ID

OPENAI = Api(
    (
        Endpoint("/v1/chat/completions", "POST", chat),
        Endpoint("/v1/chat/completions", "GET", stored_chat.list_stored),
        Endpoint(_CHAT, "GET", stored_chat.retrieve),
        Endpoint(_CHAT, "POST", stored_chat.note),
        Endpoint(_CHAT, "DELETE", stored_chat.delete),
        Endpoint(_CHAT + "/messages", "GET", stored_chat.messages),
        Endpoint("/v1/completions", "POST", completions),
        Endpoint("/v1/embeddings", "POST", embeddings),
        Endpoint("/v1/models", "GET", models),
        Endpoint("/v1/models/" + ID, "GET", model),
        Endpoint("/tokenize", "POST", tokenize),
        Endpoint("/detokenize", "POST", detokenize),
    ),
    error_json,
)
