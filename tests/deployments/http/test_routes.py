"""Which endpoint a request is for: by its method and its path, which may have ids in it."""

import pytest

from deployments.http.apis import find_endpoint
from deployments.http.server.refusals import MethodNotAllowed, NoSuchRoute


@pytest.mark.parametrize(
    ("method", "path", "found", "ids"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat/completions", ()),
        ("GET", "/v1/models", "/v1/models", ()),
        ("HEAD", "/v1/models", "/v1/models", ()),
        ("GET", "/v1/models/demo", "/v1/models/{id}", ("demo",)),
        ("GET", "/v1/models/a/b\n", "/v1/models/{id}", ("a/b\n",)),
        ("GET", "/v1/models/", "/v1/models/{id}", ("",)),
        ("POST", "/v1/responses", "/v1/responses", ()),
        ("POST", "/v1/responses/input_tokens", "/v1/responses/input_tokens", ()),
        ("GET", "/v1/responses/a", "/v1/responses/{id}", ("a",)),
        ("DELETE", "/v1/responses/a", "/v1/responses/{id}", ("a",)),
        ("GET", "/v1/responses/a/input_items", "/v1/responses/{id}/input_items", ("a",)),
        ("POST", "/v1/responses/cancel/cancel", "/v1/responses/{id}/cancel", ("cancel",)),
        ("GET", "/v1/responses/a/b/input_items", "/v1/responses/{id}", ("a/b/input_items",)),
    ],
)
def test_it_is_found(method: str, path: str, found: str, ids: tuple[str, ...]) -> None:
    endpoint, given = find_endpoint(method, path)
    assert (endpoint.path, given) == (found, ids)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/model", "/V1/models", "x/v1/models", "/v1/models{id}"])
def test_nothing_lives_there(path: str) -> None:
    with pytest.raises(NoSuchRoute):
        find_endpoint("GET", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/models/a", ("GET",)),
        ("GET", "/v1/responses", ("POST",)),
        ("POST", "/v1/responses/a", ("GET", "DELETE")),
        ("GET", "/v1/responses/a/cancel", ("POST",)),
    ],
)
def test_a_method_is_not_taken(method: str, path: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        find_endpoint(method, path)
    assert caught.value.allowed == allowed
