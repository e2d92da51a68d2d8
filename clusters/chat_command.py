"""`penstock chat`: a conversation in the terminal, streamed over the fleet's OpenAI API."""

from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from clusters.api_client import ApiClient
from clusters.errors import ClusterError
from clusters.terminal_text import printable

_HELP = "/reset forgets the conversation, /quit (or Ctrl-D) ends it; Ctrl-C stops an answer."


@dataclass(slots=True)
class _Answer:
    """What has come of one answer."""

    text: str = ""
    tool_calls: list[str] = field(default_factory=list)


class Chat:
    """One conversation.

    Args:
        client: The fleet.
        model: Which model to talk to.
        system: What it is told first; empty: nothing.
        console: Where to show the answers.
    """

    def __init__(self, client: ApiClient, model: str, system: str, console: Console) -> None:
        self._client = client
        self._model = model
        self._console = console
        self._opening: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, Any]] = list(self._opening)

    def run(self) -> None:
        """Talks until the person has had enough."""
        self._console.print(
            f"{printable(self._model)} at {self._client.url}. {_HELP}", style="dim", markup=False, highlight=False
        )
        while True:
            try:
                line = self._console.input("[bold]> [/]").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._console.print(f"\n{_HELP}", style="dim", highlight=False)
                continue
            match line:
                case "":
                    continue
                case "/quit" | "/exit":
                    return
                case "/reset":
                    self.messages = list(self._opening)
                    self._console.print("Forgotten.", style="dim")
                case _ if line.startswith("/"):
                    self._console.print(_HELP, style="dim", highlight=False)
                case _:
                    self.ask(line)

    def ask(self, question: str) -> None:
        """Asks, and shows the answer while it comes. A question that failed is not part of the conversation."""
        answer = _Answer()
        asked = [*self.messages, {"role": "user", "content": question}]
        try:
            # Closing the stream closes the connection, and that ends the request in the engine.
            with closing(self._client.stream_chat(self._model, asked)) as chunks:
                for chunk in chunks:
                    self._show(chunk, answer)
        except KeyboardInterrupt:
            self._console.print(" (stopped)", style="dim", end="")
        except ClusterError as error:
            self._console.print(f"\n{error.message}" if answer.text else error.message, style="red", markup=False)
            return
        self._console.print()
        for call in answer.tool_calls:
            self._console.print(f"calls {printable(call)}", style="cyan", markup=False, highlight=False)
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]

    def _show(self, chunk: dict[str, Any], answer: _Answer) -> None:
        for choice in chunk.get("choices", []):
            delta = choice.get("delta", {})
            if reasoning := delta.get("reasoning_content"):
                self._write(reasoning, "dim italic")
            if text := delta.get("content"):
                answer.text += text
                self._write(text)
            for call in delta.get("tool_calls") or []:
                function = call.get("function", {})
                while len(answer.tool_calls) <= call["index"]:
                    answer.tool_calls.append("")
                answer.tool_calls[call["index"]] += (function.get("name") or "") and f"{function['name']} "
                answer.tool_calls[call["index"]] += function.get("arguments") or ""

    def _write(self, text: str, style: str | None = None) -> None:
        self._console.print(printable(text), end="", style=style, markup=False, highlight=False, soft_wrap=True)
