"""A chat in the terminal over the Realtime API: `penstock serve`, and in another terminal `python realtime_chat.py`.

What you type goes to the fleet line by line, while you go on typing; an empty line asks for the answer. Ctrl-D ends it.
"""

import asyncio
import os
import sys

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection


async def answer(connection: AsyncRealtimeConnection) -> None:
    """Asks for the answer, and prints it while it comes."""
    await connection.send_raw('{"type": "input_text_buffer.commit"}')
    await connection.response.create()
    async for event in connection:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
        elif event.type == "error":
            print(f"[{event.error.message}]")
        elif event.type == "response.done":
            print()
            return


async def main(base_url: str, model: str) -> None:
    """Reads lines to the end of the input."""
    client = AsyncOpenAI(base_url=base_url, api_key=os.environ.get("PENSTOCK_API_KEYS", "none").partition(",")[0])
    async with client.realtime.connect(model=model) as connection:
        waits = False
        while line := await asyncio.to_thread(sys.stdin.readline):
            if text := line.strip():
                # The fleet may compute what is there already; the prompt grows while you think.
                await connection.send({"type": "input_text_buffer.append", "text": f" {text}" if waits else text})  # type: ignore[arg-type]
                waits = True
            elif waits:
                await answer(connection)
                waits = False
        if waits:
            await answer(connection)
    await client.close()


if __name__ == "__main__":
    arguments = sys.argv[1:] + ["http://127.0.0.1:8000/v1", "demo"][len(sys.argv) - 1 :]
    asyncio.run(main(*arguments))
