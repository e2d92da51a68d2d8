"""What stands in a URL's query."""

from deployments.http.server.exchange import Exchange
from engines.errors import InvalidRequest


def flag(exchange: Exchange, name: str) -> bool:
    """One that is `true` or `false`; left out, it is false.

    Raises:
        InvalidRequest: It is neither.
    """
    given = exchange.request.query.get(name, "false")
    if given not in ("true", "false"):
        raise InvalidRequest(f"{name}: it must be 'true' or 'false'.", param=name)
    return given == "true"


def number(exchange: Exchange, name: str, usual: int, least: int, most: int) -> int:
    """A whole number within bounds; left out, it is the usual one.

    Raises:
        InvalidRequest: It is none, or out of them.
    """
    given = exchange.request.query.get(name)
    if given is None:
        return usual
    # `isdecimal` alone would let in digits of other scripts, and int() numbers of any length.
    if not (given.isascii() and given.isdecimal() and len(given) <= 16 and least <= int(given) <= most):
        raise InvalidRequest(f"{name}: it must be a whole number from {least} to {most}.", param=name)
    return int(given)
