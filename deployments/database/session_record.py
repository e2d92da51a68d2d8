"""What is kept of one realtime session, by whoever holds it: which of its items are to be written, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engines.conversation.frames import Item, TurnSettings
from engines.conversation.journal import Journal

_MOST_GONE = 8192
"""With more items to be removed than that, all are, and those that are left are written anew."""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A session as it was left.

    Attributes:
        settings: How its turns are answered.
        items: What was said in it.
        places: The number and the position of each item.
        epoch: How often it was taken up.
    """

    settings: TurnSettings
    items: Sequence[Item]
    places: Sequence[tuple[int, float]]
    epoch: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be written of a session.

    Attributes:
        fields: Of the session's row.
        rows: Items.
        gone: Numbers of items that are not to be there before `rows` are; None: none of any number.
        ids: Of the items in `rows`.
    """

    fields: dict[str, Any]
    rows: list[dict[str, Any]]
    gone: set[int] | None
    ids: set[str]


class SessionRecord:
    """Follows a session. The journal is the truth: what is written is what it says by then.

    Args:
        id: The session's id.
        tenant: Whose it is.
        model: Its model.
        taken_up: How it was left; None: it is new.
        lost: Called when another replica has taken it up.

    Attributes:
        id: As given.
        taken_up: As given.
        lost: As given.
        epoch: How often it was taken up.
        is_new: Whether it was never written.
        lifetime_s: How long it is kept after its last change.
    """

    def __init__(self, id: str, tenant: str, model: str, taken_up: TakenUp | None, lost: Callable[[], None]) -> None:
        self.id = id
        self.taken_up = taken_up
        self.lost = lost
        self.epoch = 0 if taken_up is None else taken_up.epoch
        self.is_new = taken_up is None
        self.lifetime_s = 0.0
        self._tenant = tenant
        self._model = model
        self._journal: Journal | None = None
        self._settings: Callable[[], TurnSettings] | None = None
        self._changed: Callable[[], None] | None = None
        self._places: dict[str, tuple[int, float]] = {}
        self._numbers = 0
        self._written_anew: set[str] = set()
        self._gone: set[int] | None = set()
        if taken_up is not None:
            self._places = {item.id: place for item, place in zip(taken_up.items, taken_up.places, strict=True)}
            self._numbers = max((number for number, _ in taken_up.places), default=0)

    def follow(self, journal: Journal, settings: Callable[[], TurnSettings], changed: Callable[[], None]) -> None:
        """Writes down what changes from now on.

        Args:
            journal: The session's history; of one that was taken up it has all items.
            settings: Says how its turns are answered.
            changed: Called when there is something to write.
        """
        self._journal, self._settings, self._changed = journal, settings, changed
        journal.watch(self._note)
        changed()

    def touch(self) -> None:
        """Something of it has changed that is no item."""
        if self._changed is not None:
            self._changed()

    def take_changes(self) -> Changes:
        """What is to be written. From now on it counts as written."""
        assert self._journal is not None and self._settings is not None
        rows = []
        for id in self._written_anew:
            number, position = self._places[id]
            item = Item.model_construct(id=id, message=self._journal.find(id))
            text = item.model_dump_json(exclude_none=True)
            rows.append({"session": self.id, "number": number, "position": position, "item": text})
        # Also those that are written anew: it may be unknown whether they are there already.
        gone = None if self._gone is None else self._gone | {self._places[id][0] for id in self._written_anew}
        fields = {
            "tenant": self._tenant,
            "model": self._model,
            "epoch": self.epoch,
            "settings": self._settings().model_dump_json(exclude_none=True),
            "bytes": self._journal.size,
        }
        changes = Changes(fields, rows, gone, self._written_anew)
        self._written_anew, self._gone = set(), set()
        return changes

    def give_back(self, changes: Changes) -> None:
        """They were not written after all."""
        self._written_anew |= changes.ids & self._places.keys()
        if changes.gone is None:
            self._gone, self._written_anew = None, set(self._places)
        else:
            self._remove(changes.gone)

    def _note(self, item: str) -> None:
        assert self._journal is not None and self._changed is not None
        before = self._places.pop(item, None)
        if before is not None:
            self._remove({before[0]})
        self._written_anew.discard(item)
        if self._journal.has(item):
            self._numbers += 1
            self._places[item] = self._numbers, self._position(self._journal.order, item)
            self._written_anew.add(item)
        self._changed()

    def _remove(self, numbers: set[int]) -> None:
        if self._gone is None:
            return
        self._gone |= numbers
        if len(self._gone) > _MOST_GONE:
            self._gone, self._written_anew = None, set(self._places)

    def _position(self, order: Sequence[str], item: str) -> float:
        """A position for an item, between those of its neighbours; places of answers to be given have none."""
        at, places = order.index(item), self._places
        before = next((places[id][1] for id in reversed(order[:at]) if id in places), None)
        after = next((places[id][1] for id in islice(order, at + 1, None) if id in places), None)
        if after is None:
            return 0.0 if before is None else before + 1.0
        if before is None:
            return after - 1.0
        middle = (before + after) / 2
        if before < middle < after:
            return middle
        # So many were put there one after another that no number is left between them: all get new ones.
        found = 0.0
        for position, id in enumerate(id for id in order if id in places or id == item):
            if id == item:
                found = float(position)
            else:
                places[id] = places[id][0], float(position)
        self._written_anew |= places.keys()
        return found
