"""A fallback from a local model to a remote one: `python fallback.py MODEL URL REMOTE_MODEL`, beside `penstock serve`.

Asks whenever a line comes in, and says who answered: the local fleet as long as it can, the server at the URL (which
speaks OpenAI's API; its key is in `REMOTE_API_KEY`) while it cannot.
"""

import asyncio
import os
import sys

import deployments
from engines import Breaker, BreakerOptions, CompletionClient, EngineSpec, Fallback, link, make_engine


def assistant(local_model: str, url: str, remote_model: str) -> Fallback:
    """One engine in front of both."""
    local = link(Breaker(BreakerOptions(failures=3, cool_down_s=2.0)), deployments.connect())
    options = {"base_url": url, "model": remote_model}
    if "REMOTE_API_KEY" in os.environ:
        options["api_key_env"] = "REMOTE_API_KEY"
    remote = make_engine("remote", EngineSpec(kind="openai", model=local_model, options=options))
    return Fallback("assistant", [local, remote])


async def main() -> None:
    """Asks for each line."""
    local_model, url, remote_model = sys.argv[1:]
    both = assistant(local_model, url, remote_model)
    await both.start()
    model = CompletionClient(both).model(local_model)
    while question := (await asyncio.to_thread(sys.stdin.readline)).strip():
        completion = await model.chat({"messages": [{"role": "user", "content": question}]})
        print(f"{completion.engine}: {completion.text}", flush=True)
    await both.stop()


if __name__ == "__main__":
    asyncio.run(main())
