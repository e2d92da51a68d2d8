"""What a scripted engine has on its further nodes: nothing, until it ends with its process."""

import asyncio

from engines.follower import Follower
from engines.registry import EngineSpec
from engines.scripted.engine import ScriptedOptions


class ScriptedFollower(Follower):
    """Waits for its end."""

    def __init__(self, name: str, spec: EngineSpec, options: ScriptedOptions) -> None:
        self._options = options

    async def run(self) -> None:
        """Waits for the end of its process; raises `follower_error` at once where that is set."""
        if self._options.follower_error is not None:
            raise self._options.follower_error.build()
        await asyncio.get_running_loop().create_future()
