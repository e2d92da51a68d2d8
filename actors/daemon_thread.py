"""Blocking work beside the event loop that must never keep the process alive."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


def in_daemon_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Runs blocking work in a thread of its own.

    Not `asyncio.to_thread`: Python waits for that one's threads when it exits, and a call that waits for a control
    service which is gone never ends. The process would stay, with the GPU memory that it holds.

    Returns:
        A future of this loop with the work's result or error. Cancelling it leaves the thread alone.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def succeed(value: _T) -> None:
        if not future.done():
            future.set_result(value)

    def fail(error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # The loop was closed meanwhile: nobody waits any more.
            try:
                value = work()
            except Exception as error:  # noqa: BLE001 - it belongs to who awaits the future
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(succeed, value)

    threading.Thread(target=run, name="penstock", daemon=True).start()
    return future
