"""A stream of a session holds its lease from its dispatch to its end."""

from deployments.routing.affinity import Lease
from engines.errors import PenstockError
from engines.events import Event, Finished, Started
from engines.sink import Sink


class LeasedSink:
    """Passes a stream on, keeps its session's lease when it starts, and releases it at the end.

    Only requests with a session pay for it, two checks of a type per event.
    """

    __slots__ = ("_emit", "_lease", "_sink")

    def __init__(self, sink: Sink, lease: Lease) -> None:
        self._sink = sink
        self._emit = sink.emit
        self._lease = lease

    def emit(self, event: Event) -> None:
        """Takes the next event."""
        if event.__class__ is Finished:
            self._lease.release()
        elif event.__class__ is Started:
            self._lease.keep()
        self._emit(event)

    def fail(self, error: PenstockError) -> None:
        """Takes the error that ends the stream; nothing comes after it."""
        self._lease.release()
        self._sink.fail(error)
