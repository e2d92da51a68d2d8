"""Ray's private names that we use: looked for once, when this is imported.

Most of them only make something faster that a public way does as well. Where another version of Ray has moved one, the
public way is taken; where there is none, what needs it is refused. The log says once what was moved by which version.
"""

import logging
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import ray

logger = logging.getLogger(__name__)

MADE_FOR = "2.60"
"""The version of Ray in which all of them are."""
_CORE = "ray._raylet:CoreWorker"


def find(what: str, names: Sequence[str], without: str = "more slowly") -> bool:
    """Whether Ray has all of these names; says so in the log if it has not.

    Args:
        what: What goes on without them.
        names: `module:name`, `module:name.attribute`, or `module:function(parameter)`.
        without: How it does.
    """
    moved = [name for name in names if not _exists(name)]
    if moved:
        logger.warning(
            "Ray %s has moved %s, which Ray %s has: %s %s.", ray.__version__, ", ".join(moved), MADE_FOR, what, without
        )
    return not moved


def _exists(name: str) -> bool:
    module, _, way = name.partition(":")
    way, _, parameter = way.rstrip(")").partition("(")
    try:
        found: Any = import_module(module)
        for attribute in way.split("."):
            found = getattr(found, attribute)
        return not parameter or parameter in signature(found).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return False


READS_BY_CALLBACK = find(
    "frames are read",
    (
        f"{_CORE}.peek_object_ref_stream",
        f"{_CORE}.try_read_next_object_ref_stream",
        "ray._raylet:ObjectRef._on_completed",
        # It keeps them as `_generator_ref` and `worker`.
        "ray._raylet:ObjectRefGenerator.__init__(generator_ref)",
        "ray._raylet:ObjectRefGenerator.__init__(worker)",
    ),
)
"""Whether `actors.channel.ray_stream` can read a streaming call by callback."""

REPORTS_INLINE = find(
    "frames are reported", (f"{_CORE}.reset_event_loop_executor", "ray._private.worker:global_worker")
)
"""Whether `actors.channel.inline_reports` can let a streaming call report its items in place."""

_KV = "ray.experimental.internal_kv"
KEEPS_VALUES = find(
    "tenants with quotas are refused",
    (f"{_KV}:_internal_kv_get(namespace)", f"{_KV}:_internal_kv_put(namespace)"),
    without="until Penstock knows it",
)
"""Whether `actors.directory.kept_values` can keep what outlives every process of a fleet."""
