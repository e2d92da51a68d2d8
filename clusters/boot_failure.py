"""Whether Ray Serve has given a fleet up that boots, and why."""

import re

from ray.serve.schema import ApplicationStatusOverview

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


def has_given_up(application: ApplicationStatusOverview) -> bool:
    """Whether Serve tries no more.

    What it calls failed or unhealthy because a replica that had booted missed its health checks, which the boots of the
    others may cause on a busy machine, it mends by itself.
    """
    if application.status not in ("DEPLOY_FAILED", "UNHEALTHY"):
        return False
    failed = [one for one in application.deployments.values() if one.status in ("DEPLOY_FAILED", "UNHEALTHY")]
    return not failed or any(one.status_trigger != "HEALTH_CHECK_FAILED" for one in failed)
