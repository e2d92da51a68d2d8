"""Rerank, score and pooling, as vLLM's server has them."""

from deployments.http.openai_common.error_body import error_json
from deployments.http.scoring.pooling import pooling
from deployments.http.scoring.rerank import rerank
from deployments.http.scoring.score import score
from deployments.http.server.api import Api, Endpoint

SCORING = Api(
    (
        Endpoint("/rerank", "POST", rerank),
        Endpoint("/v1/rerank", "POST", rerank),
        Endpoint("/v2/rerank", "POST", rerank),
        Endpoint("/score", "POST", score),
        Endpoint("/v1/score", "POST", score),
        Endpoint("/pooling", "POST", pooling),
    ),
    error_json,
)
