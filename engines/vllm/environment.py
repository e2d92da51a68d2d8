"""The environment of vLLM's processes. Nothing here imports vLLM before it is called for what vLLM knows."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from engines.registry import NodePart
from engines.vllm.options import VllmOptions
from engines.vllm.socket_folder import socket_folder

_BIND, _NO_BIND = "VLLM_CPU_OMP_THREADS_BIND", "nobind"
_SOCKETS = "VLLM_RPC_BASE_PATH"
_PRELOAD = "LD_PRELOAD"
_READ_LATE = frozenset(
    (
        "AITER_SITUV2_A4W4",  # by kernels for AMD's GPUs
        "LOCAL_WORLD_SIZE",
        "NUMEXPR_MAX_THREADS",  # by a package that vLLM does not import
        "VLLM_DISABLE_SHARED_EXPERTS_STREAM",
        "VLLM_SSM_CONV_STATE_LAYOUT",
    )
)
"""What vLLM sets when it makes its configuration, after its imports."""
_environment_lock = threading.Lock()


def quiet_environment() -> None:
    """Sets what vLLM reads when it is imported: no usage reports, and warnings only unless the operator asks."""
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def threads_bound() -> bool:
    """Whether the operator wants vLLM to pin its compute threads, which it does for ranks in children only."""
    return os.environ.get(_BIND, _NO_BIND) != _NO_BIND


@contextmanager
def child_environment(options: VllmOptions, part: NodePart | None = None) -> Iterator[None]:
    """The environment that vLLM's processes inherit, while they are started.

    vLLM would pin the compute threads of every engine of a machine to the same cores, all but the last; we leave them
    to the operating system and say only how many there are. It would put the sockets over which they speak into the
    folder for everybody's temporary files, as open to others as the user's umask. Where there are several nodes, it
    would take the address by which this one reaches the internet, and Gloo the one that its name leads to; the others
    reach it by the one that Ray has of it.
    """
    from vllm.platforms import current_platform

    with _changed(lambda: _changes(options, part, is_cpu=current_platform.is_cpu())):
        yield


@contextmanager
def early_environment(options: VllmOptions, part: NodePart | None = None) -> Iterator[None]:
    """The same, before vLLM is imported; with what vLLM, in making its configuration, adds for its processes.

    A guess: whoever starts a process in it compares (`unlike`) before that process is used.
    """

    def changes() -> dict[str, str]:
        is_cpu = _computes_on_cpu()
        return _changes(options, part, is_cpu) | (_added_on_cpu() if is_cpu else {})

    with _changed(changes):
        yield


def unlike(theirs: Mapping[str, str], started_in: Mapping[str, str]) -> list[str]:
    """The variables that make a difference to a process that has imported vLLM, and a new one would find otherwise.

    Those that have changed here since, unless its own imports have changed them likewise, or they are read later: by
    then that process has them.

    Args:
        theirs: The environment of that process.
        started_in: The environment here, when it was started.
    """
    changed = {name for name in started_in.keys() | os.environ.keys() if started_in.get(name) != os.environ.get(name)}
    return sorted(name for name in changed - _READ_LATE if theirs.get(name) != os.environ.get(name))


@contextmanager
def _changed(changes: Callable[[], dict[str, str]]) -> Iterator[None]:
    with _environment_lock:
        # Under the lock, for another engine's boot may have its own in place now and take them back later.
        changed = changes()
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _changes(options: VllmOptions, part: NodePart | None, is_cpu: bool) -> dict[str, str]:
    changes = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if _SOCKETS not in os.environ:
        changes[_SOCKETS] = socket_folder()
    if part is not None:
        changes |= {name: value for name, value in _network(part).items() if name not in os.environ}
    if is_cpu:
        changes[_BIND] = os.environ.get(_BIND, _NO_BIND)
        changes["OMP_NUM_THREADS"] = str(options.cpu_threads or _default_threads())
    return changes


def _network(part: NodePart) -> dict[str, str]:
    """How the ranks on other nodes reach those on this one."""
    import psutil  # type: ignore[import-untyped, unused-ignore]  # vLLM brings it.

    named = {"VLLM_HOST_IP": part.address}
    for interface, addresses in psutil.net_if_addrs().items():
        if any(one.address == part.address for one in addresses):
            return named | {"GLOO_SOCKET_IFNAME": interface}
    return named


def _default_threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _computes_on_cpu() -> bool:
    """Whether the vLLM that is installed is the one for CPUs, by its package, as vLLM finds out (`vllm.platforms`)."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True  # It is called `vllm-cpu`.


def _added_on_cpu() -> dict[str, str]:
    """What `CpuPlatform.check_and_update_config` of vLLM sets, of which a process takes notice when it starts."""
    added = {"TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1"}
    preloads = list(filter(None, [os.environ.get(_PRELOAD, "")]))
    if not any(library in "".join(preloads) for library in ("libomp", "libgomp", "libiomp")):
        torch = _package("torch")
        preloads += _first(torch.parent / "torch.libs", "libgomp*.so*") or _first(torch / "lib", "libgomp*.so*")
    if "libtcmalloc" not in "".join(preloads):
        libraries = _package("vllm") / "libs"
        found = _first(libraries, "libtcmalloc_minimal*.so*") or _first(libraries, "libtcmalloc.so*")
        preloads = found + preloads
    return added | ({_PRELOAD: ":".join(preloads)} if preloads else {})


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None, name
    return Path(spec.origin).parent


def _first(folder: Path, pattern: str) -> list[str]:
    return [str(path) for path in folder.glob(pattern)][:1]
