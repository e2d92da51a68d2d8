"""What only HTTP can refuse: the branch of the error tree that `engines.errors` has no use for.

InvalidRequest
├── NotHttp               400  not HTTP, or a header over the limits
├── NoSuchRoute           404
├── MethodNotAllowed      405
├── BodyTimeout           408  the body did not come in time
└── UnsupportedMediaType  415  the body is not JSON, or it is compressed
Forbidden
└── UnknownHost           403  the request asks for a host that the server is not
Unavailable
└── BodiesOverBudget      503  so many bodies are being read that there is no room for another
PenstockError
├── InternalError         500  a bug; the log line with the request id says more
└── CannotListen               the port is taken, or may not be had
"""

from engines.errors import Forbidden, InvalidRequest, PenstockError, Unavailable


class NotHttp(InvalidRequest):
    """What came is not HTTP, or a part of its head is too large."""

    code = "bad_http"


class NoSuchRoute(InvalidRequest):
    """Nothing lives at this path."""

    status = 404
    code = "unknown_url"


class MethodNotAllowed(InvalidRequest):
    """Something lives at this path, and does not take this method.

    Attributes:
        allowed: The methods that it takes.
    """

    status = 405
    code = "method_not_allowed"

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{path[:200]} does not take {method[:20]}; it takes {', '.join(allowed)}.")
        self.allowed = allowed


class BodyTimeout(InvalidRequest):
    """The client took too long to send its body."""

    status = 408
    code = "body_timeout"


class UnsupportedMediaType(InvalidRequest):
    """The body is not JSON, or it is compressed."""

    status = 415
    code = "unsupported_media_type"


class UnknownHost(Forbidden):
    """The request asks for a host whose name the server does not have: perhaps a web page that found a way in.

    Args:
        host: What it asks for.
        listed: Whether the fleet file lists names.
    """

    code = "unknown_host"

    def __init__(self, host: str, *, listed: bool) -> None:
        why = "" if listed else " A fleet on loopback that asks for no key answers to localhost, 127.0.0.1 and [::1]."
        super().__init__(f"This server is not {host[:200]!r}.{why} Add that name to http.hosts of the fleet file.")


class BodiesOverBudget(Unavailable):
    """The bodies that are being read leave no room for another."""

    code = "bodies_over_budget"

    def __init__(self) -> None:
        super().__init__("The server is reading too many large requests at once.", retry_after_s=1.0)


class InternalError(PenstockError):
    """Something failed that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__("The server failed on this request.")


class CannotListen(PenstockError):
    """The ingress cannot listen on its address. For the operator: the message names the address."""

    code = "cannot_listen"
