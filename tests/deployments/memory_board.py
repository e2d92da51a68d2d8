"""A board without a directory, for router replicas of one process."""


class MemoryBoard:
    """A board in this process; time is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._values: dict[str, tuple[bytes, float]] = {}

    async def post(self, key: str, value: bytes, ttl_s: float | None) -> None:
        self._values[key] = (value, float("inf") if ttl_s is None else self.now_s + ttl_s)

    async def read(self, prefix: str) -> dict[str, bytes]:
        return {
            key: value
            for key, (value, until_s) in self._values.items()
            if key.startswith(prefix) and until_s > self.now_s
        }

    async def swap(self, expected: dict[str, bytes | None], values: dict[str, bytes | None]) -> bool:
        now = await self.read("")
        if any(now.get(key) != value for key, value in expected.items()):
            return False
        for key, value in values.items():
            if value is None:
                self._values.pop(key, None)
            else:
                await self.post(key, value, None)
        return True
