"""Errors of the command line: one sentence for the person in front of it, and never a traceback."""

from engines.errors import PenstockError


class ClusterError(PenstockError):
    """The fleet cannot be started, reached or ended; the message says why and what to do."""

    code = "cluster_error"
