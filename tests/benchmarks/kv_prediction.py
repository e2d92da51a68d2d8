"""What the routers of a running fleet expect in its prefix caches, beside what is found there: conversations of many
turns over HTTP, and the counters of `/metrics` before and after.
"""

import argparse
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
from rich.console import Console

TURNS = 5
AT_ONCE = 8


def main() -> int:
    """Runs it; 0 when what was expected is within 5 % of what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kv_prediction", description=__doc__)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="of the fleet; default: %(default)s")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--requests", type=int, default=500)
    arguments = parser.parse_args()
    console = Console(file=sys.stdout, width=160)
    before = cached_tokens(arguments.url, arguments.model)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        conversations = range(-(-arguments.requests // TURNS))
        prompts = sum(pool.map(lambda number: talk(arguments.url, arguments.model, number), conversations))
    after = cached_tokens(arguments.url, arguments.model)
    predicted, real = (after[kind] - before.get(kind, 0.0) for kind in ("predicted", "real"))
    console.print(
        f"{TURNS * len(conversations)} requests, {prompts:.0f} tokens of prompts: {real:.0f} of them were cached, "
        f"{predicted:.0f} expected ({predicted / real - 1:+.1%})"
        if real
        else "nothing was cached"
    )
    return 0 if real and abs(predicted / real - 1) < 0.05 else 1


def talk(url: str, model: str, number: int) -> int:
    """One conversation; the tokens of its prompts."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=600)
    messages: list[dict[str, str]] = []
    tokens = 0
    for turn in range(TURNS):
        first = 7 * number + turn
        messages.append({"role": "user", "content": f"count from {first} to {first + 60}"})
        answer = client.chat.completions.create(
            model=model,
            messages=messages,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=150,
        )
        tokens += answer.usage.prompt_tokens if answer.usage is not None else 0
        messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
    return tokens


def cached_tokens(url: str, model: str) -> dict[str, float]:
    """Tokens of prompts that were expected in caches so far (`predicted`), and found there (`real`)."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        text = response.read().decode()
    pattern = rf'penstock_routing_cached_tokens_total\{{kind="(\w+)",model="{re.escape(model)}"\}} (\S+)'
    return {kind: float(value) for kind, value in re.findall(pattern, text)}


if __name__ == "__main__":
    sys.exit(main())
