"""Errors of the command line: one sentence for the person in front of it, and never a traceback."""

from engines.errors import PenstockError


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name: Ray's go on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class ClusterError(PenstockError):
    """The fleet cannot be started, reached or ended; the message says why and what to do."""

    code = "cluster_error"
