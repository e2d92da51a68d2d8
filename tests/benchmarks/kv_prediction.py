"""What the routers of a running fleet expect in its prefix caches, beside what is found there: conversations of many
turns over HTTP, and the counters of `/metrics` before and after. Also how long the first token of each turn takes: to
be held against the same fleet with another policy.
"""

import argparse
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
from rich.console import Console

from tests.benchmarks.quantiles import quantile
from tests.metric_text import samples

TURNS = 5
AT_ONCE = 8


def main() -> int:
    """Runs it; 0 when what was expected is within 5 % of what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kv_prediction", description=__doc__)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="of the fleet; default: %(default)s")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="another number has other conversations")
    arguments = parser.parse_args()
    console = Console(file=sys.stdout, width=160)
    before = cached_tokens(arguments.url, arguments.model)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        conversations = range(arguments.first, arguments.first - (-arguments.requests // TURNS))
        talks = list(pool.map(lambda number: talk(arguments.url, arguments.model, number), conversations))
    after = cached_tokens(arguments.url, arguments.model)
    predicted, real = (after[kind] - before.get(kind, 0.0) for kind in ("predicted", "real"))
    prompts = sum(tokens for tokens, _ in talks)
    for turn in range(TURNS):
        first_s = [waits[turn] for _, waits in talks]
        p50, p99 = (1e3 * quantile(first_s, share) for share in (0.5, 0.99))
        console.print(f"turn {turn + 1}: first token p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    console.print(
        f"{TURNS * len(conversations)} requests, {prompts:.0f} tokens of prompts: {real:.0f} of them were cached, "
        f"{predicted:.0f} expected ({predicted / real - 1:+.1%})"
        if real
        else "nothing was cached"
    )
    return 0 if real and abs(predicted / real - 1) < 0.05 else 1


def talk(url: str, model: str, number: int) -> tuple[int, list[float]]:
    """One conversation: the tokens of its prompts, and the seconds to the first token of each turn."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600)
    messages: list[dict[str, str]] = []
    tokens = 0
    waits: list[float] = []
    for turn in range(TURNS):
        first = 7 * number + turn
        messages.append({"role": "user", "content": f"count from {first} to {first + 60}"})
        asked_s = time.perf_counter()
        stream = client.chat.completions.create(
            model=model,
            messages=messages,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=150,
            stream=True,
            stream_options={"include_usage": True},
        )
        said: list[str] = []
        for chunk in stream:
            if chunk.usage is not None:
                tokens += chunk.usage.prompt_tokens
            if chunk.choices and (text := chunk.choices[0].delta.content):
                if not said:
                    waits.append(time.perf_counter() - asked_s)
                said.append(text)
        if not said:
            waits.append(time.perf_counter() - asked_s)
        messages.append({"role": "assistant", "content": "".join(said)})
    return tokens, waits


def cached_tokens(url: str, model: str) -> dict[str, float]:
    """Tokens of prompts that were expected in caches so far (`predicted`), and found there (`real`)."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    found = samples(text, "penstock_routing_cached_tokens_total", model=model)
    return {sample.labels["kind"]: sample.value for sample in found}


if __name__ == "__main__":
    sys.exit(main())
