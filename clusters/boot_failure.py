"""The one line in a message of Ray Serve that says why a replica did not start."""

import re

_ERROR_LINE = re.compile(r"^(?P<module>(?:\w+\.)*)(?P<name>[A-Za-z_]\w*): (?P<text>.+)$")
_OURS = "engines.errors."


def reason(message: str) -> str:
    """The last exception of the tracebacks in the message: chained ones are told from the cause to the effect."""
    lines = [line for line in message.splitlines() if line.strip()]
    errors = [match for line in lines if (match := _ERROR_LINE.match(line))]
    if not errors:
        return lines[-1].strip() if lines else "Ray Serve gives no reason."
    last = errors[-1]
    return last["text"] if last["module"] == _OURS else f"{last['name']}: {last['text']}"
