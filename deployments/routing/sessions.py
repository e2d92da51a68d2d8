"""A stream of a session holds its lease until it ends."""

from deployments.routing.affinity import Lease
from engines.contract import Sink
from engines.errors import PenstockError
from engines.events import Event, Finished


class LeasedSink:
    """Passes a stream on and releases its session's lease at the end.

    Only requests with a session pay for it, one check of a type per event.
    """

    __slots__ = ("_emit", "_ended", "_lease", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._emit = sink.emit
        self._lease: Lease | None = None
        self._ended = False

    def hold(self, lease: Lease) -> None:
        """Gives it the lease to release; at once when the stream ended before its engine said that it took it."""
        self._lease = lease
        if self._ended:
            lease.release()

    def emit(self, event: Event) -> None:
        """As `Sink.emit`."""
        if event.__class__ is Finished:
            self._end()
        self._emit(event)

    def fail(self, error: PenstockError) -> None:
        """As `Sink.fail`."""
        self._end()
        self._sink.fail(error)

    def _end(self) -> None:
        self._ended = True
        if self._lease is not None:
            self._lease.release()
