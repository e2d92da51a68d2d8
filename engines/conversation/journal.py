"""The journal of a conversation: its items in their order, which are the only truth about its history."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO

from pydantic import Field

from engines.conversation.frames import START, Append, Item
from engines.errors import ConversationFull, InvalidRequest
from engines.messages import Message
from engines.requests import RequestModel


class ConversationLimits(RequestModel):
    """What one conversation may hold.

    Attributes:
        items: Most items of its history.
        history_bytes: Most bytes of them, as JSON.
        turns: Most turns that run or wait at a time.
    """

    items: int = Field(4096, ge=1)
    history_bytes: int = Field(16 * 2**20, ge=1)
    turns: int = Field(16, ge=1)


@dataclass(slots=True, eq=False)
class Entry:
    """An item, or the place of an answer.

    Attributes:
        message: What it says, without what is being written; None: it is the place of an answer.
        size: Its bytes.
        draft: The text that is being written; None: it is complete.
        answer: What was put into the place since.
    """

    message: Message | None
    size: int
    draft: StringIO | None = None
    answer: Sequence[Message] = ()


class Journal:
    """Items by id, in their order.

    Args:
        limits: What fits.

    Attributes:
        size: Bytes of its items, as JSON.
    """

    def __init__(self, limits: ConversationLimits) -> None:
        self.size = 0
        self._limits = limits
        self._entries: dict[str, Entry] = {}
        self._order: list[str] = []
        self._watcher: Callable[[str], None] | None = None

    def __len__(self) -> int:
        return len(self._order)

    @property
    def order(self) -> Sequence[str]:
        """All ids in their order, those of open items and of places for answers among them."""
        return self._order

    def watch(self, changed: Callable[[str], None]) -> None:
        """From now on tells the id of each item that is complete, or is not there any more."""
        self._watcher = changed

    def has(self, item: str) -> bool:
        """Whether there is a complete item of that id."""
        entry = self._entries.get(item)
        return entry is not None and entry.message is not None and entry.draft is None

    def append(self, frame: Append) -> None:
        """Adds an item, or more text to one that is open.

        Raises:
            InvalidRequest: There is one of that id, or none that it could follow.
            ConversationFull: It does not fit.
        """
        entry = self._entries.get(frame.item)
        if entry is None:
            self._add(frame.item, frame.message, frame.after, is_open=frame.open)
        elif entry.draft is not None:
            self._extend(entry, frame)
        else:
            raise InvalidRequest(f"item: there is one with the id {frame.item!r} already.", param="item")
        if not frame.open:
            self._tell(frame.item)

    def put(self, item: Item) -> None:
        """Adds an item at the end; raises what `append` raises."""
        if item.id in self._entries:
            raise InvalidRequest(f"items: two of them have the id {item.id!r}.", param="items")
        self._add(item.id, item.message, None, is_open=False)

    def delete(self, item: str) -> None:
        """Takes an item out.

        Raises:
            InvalidRequest: There is none of that id.
        """
        entry = self._entries.get(item)
        if entry is None or entry.message is None:
            raise InvalidRequest(f"item: there is none with the id {item!r}.", param="item")
        self.size -= entry.size
        del self._entries[item]
        self._order.remove(item)
        if entry.draft is None:
            self._tell(item)

    def reserve(self, item: str) -> None:
        """Keeps a place at the end, for an answer whose turn begins."""
        self._entries[item] = Entry(None, 0)
        self._order.append(item)

    def fill(self, place: str, items: Sequence[Item]) -> None:
        """Puts an answer where its place was kept; no item of it: takes the place away."""
        at = self._order.index(place)
        self._entries.pop(place).answer = [item.message for item in items]
        self._order[at : at + 1] = [item.id for item in items]
        for item in items:
            size = _size(item.message)
            self.size += size
            self._entries[item.id] = Entry(item.message, size)
        for item in items:
            self._tell(item.id)

    def items(self) -> list[Item]:
        """The history: what is complete."""
        return [
            Item.model_construct(id=id, message=entry.message)
            for id in self._order
            if (entry := self._entries[id]).message is not None and entry.draft is None
        ]

    def find(self, item: str) -> Message:
        """What a complete item says.

        Raises:
            InvalidRequest: There is none of that id.
        """
        entry = self._entries.get(item)
        if entry is None or entry.message is None or entry.draft is not None:
            raise InvalidRequest(f"item: there is none with the id {item!r}.", param="item")
        return entry.message

    def before(self, item: str) -> str | None:
        """The id of the item in front of this one; None: it is the first."""
        at = self._order.index(item)
        return self._order[at - 1] if at else None

    @property
    def last(self) -> str | None:
        """The id of the last item; None: there is none."""
        return self._order[-1] if self._order else None

    def entries(self) -> list[Entry]:
        """The history as it is now: what is complete, and the places of answers that are to be given."""
        return [entry for id in self._order if (entry := self._entries[id]).draft is None]

    def open_length(self, item: str) -> int | None:
        """Characters of an open item so far; None where it is not open."""
        entry = self._entries.get(item)
        return None if entry is None or entry.draft is None else entry.draft.tell()

    def has_of(self, turn: str) -> bool:
        """Whether there is an item that is named like those of the turn's answer."""
        return any(item.startswith(f"{turn}.") for item in self._order)

    def draft(self, item: str) -> str | None:
        """The text of an open item so far; None where it is not open."""
        entry = self._entries.get(item)
        return None if entry is None or entry.draft is None else entry.draft.getvalue()

    def _tell(self, item: str) -> None:
        if self._watcher is not None:
            self._watcher(item)

    def _add(self, item: str, message: Message, after: str | None, *, is_open: bool) -> None:
        if len(self._order) >= self._limits.items:
            raise ConversationFull(f"The conversation has {self._limits.items} items, and more do not fit.")
        if after is None:
            at = len(self._order)
        elif after == START:
            at = 0
        elif after in self._entries:
            at = self._order.index(after) + 1
        else:
            raise InvalidRequest(f"after: there is no item with the id {after!r}.", param="after")
        size = _size(message)
        self._check_size(size)
        self.size += size
        entry = self._entries[item] = Entry(message, size)
        if is_open:
            assert isinstance(message.content, str)
            entry.draft = StringIO()
            entry.draft.write(message.content)
        self._order.insert(at, item)

    def _extend(self, entry: Entry, frame: Append) -> None:
        assert entry.draft is not None and entry.message is not None
        more = frame.message.content
        if not isinstance(more, str) or frame.message.role != entry.message.role:
            raise InvalidRequest("message: what goes on with an item is text of the same role.", param="message")
        size = len(more.encode())
        self._check_size(size)
        self.size += size
        entry.size += size
        entry.draft.write(more)
        if not frame.open:
            entry.message = entry.message.model_copy(update={"content": entry.draft.getvalue()})
            entry.draft = None

    def _check_size(self, size: int) -> None:
        limit = self._limits.history_bytes
        if self.size + size > limit:
            raise ConversationFull(f"The conversation holds {self.size} bytes of at most {limit}: this does not fit.")


def messages_of(entries: Iterable[Entry]) -> list[Message]:
    """A history as a chat template takes it; calls that follow one another are one message's."""
    messages: list[Message] = []
    for entry in entries:
        for message in entry.answer if entry.message is None else (entry.message,):
            before = messages[-1] if messages else None
            is_call = message.role == "assistant" and message.tool_calls and message.content is None
            if is_call and before is not None and before.role == "assistant":
                calls = [*(before.tool_calls or ()), *(message.tool_calls or ())]
                messages[-1] = before.model_copy(update={"tool_calls": calls})
            else:
                messages.append(message)
    return messages


def _size(message: Message) -> int:
    return len(message.model_dump_json(exclude_none=True).encode())
