import pytest

from engines.conversation.frames import Append, Item
from engines.conversation.journal import ConversationLimits, Journal, messages_of
from engines.errors import ConversationFull, InvalidRequest
from engines.messages import FunctionCall, Message, ToolCall


def says(text: str, role: str = "user") -> Message:
    return Message.model_validate({"role": role, "content": text})


def append(item: str, text: str = "x", after: str | None = None, *, open: bool = False) -> Append:
    return Append(item=item, message=says(text), after=after, open=open)


def journal(*items: str, **limits: int) -> Journal:
    made = Journal(ConversationLimits(**limits))
    for item in items:
        made.append(append(item, item))
    return made


def ids(journal: Journal) -> list[str]:
    return [item.id for item in journal.items()]


def test_items_stand_where_they_are_put() -> None:
    made = journal("a", "b")
    made.append(append("c", after="a"))
    made.append(append("d", after="root"))
    assert ids(made) == ["d", "a", "c", "b"]
    made.delete("a")
    assert ids(made) == ["d", "c", "b"]


@pytest.mark.parametrize(
    ("frame", "field"),
    [(append("a"), "item"), (append("c", after="nowhere"), "after")],
)
def test_what_does_not_fit_the_others_changes_nothing(frame: Append, field: str) -> None:
    made = journal("a", "b")
    made.reserve("t.")
    size = made.size
    with pytest.raises(InvalidRequest) as caught:
        made.append(frame)
    assert caught.value.param == field
    assert (ids(made), made.size) == (["a", "b"], size)


@pytest.mark.parametrize("item", ["nowhere", "t."])
def test_only_items_are_deleted(item: str) -> None:
    made = journal("a")
    made.reserve("t.")
    with pytest.raises(InvalidRequest, match="item: there is none"):
        made.delete(item)


def test_an_answer_stands_where_its_turn_was_asked_for() -> None:
    made = journal("a")
    before = made.entries()
    made.reserve("t.")
    made.append(append("b", "b"))
    after = made.entries()
    made.delete("a")
    assert [message.content for message in messages_of(after)] == ["a", "b"]
    made.fill("t.", [Item(id="t.0", message=says("answer", "assistant"))])
    assert ids(made) == ["t.0", "b"]
    assert [message.content for message in messages_of(before)] == ["a"]
    assert [message.content for message in messages_of(after)] == ["a", "answer", "b"]


def test_a_turn_that_said_nothing_leaves_nothing() -> None:
    made = journal("a")
    size = made.size
    made.reserve("t.")
    made.fill("t.", [])
    assert (len(made), made.size) == (1, size)


def test_text_that_is_being_written_is_no_part_of_the_history() -> None:
    made = journal("a")
    made.append(append("b", "one", open=True))
    entries = made.entries()
    made.append(append("b", " two", open=True))
    assert ids(made) == ["a"]
    assert made.open_length("b") == len("one two")
    assert made.draft("b") == "one two"
    made.append(append("b", " three"))
    assert made.items()[-1] == Item(id="b", message=says("one two three"))
    assert made.draft("b") is None
    assert len(messages_of(entries)) == 1


def test_text_goes_on_with_text_of_the_same_role() -> None:
    made = journal()
    made.append(append("b", "one", open=True))
    with pytest.raises(InvalidRequest, match="of the same role"):
        made.append(Append(item="b", message=says("two", "system")))


def test_calls_that_follow_one_another_are_one_message_to_the_model() -> None:
    def call(id: str) -> Message:
        return Message(role="assistant", tool_calls=[ToolCall(id=id, function=FunctionCall(name="f"))])

    made = journal("a")
    for id, message in {"t.0": says("I look.", "assistant"), "t.1": call("1"), "t.2": call("2")}.items():
        made.put(Item(id=id, message=message))
    made.put(Item(id="r", message=Message(role="tool", content="3", tool_call_id="1")))
    made.put(Item(id="u.0", message=call("3")))
    messages = messages_of(made.entries())
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1].content == "I look."
    assert [call.id for call in messages[1].tool_calls or ()] == ["1", "2"]


def test_it_is_bounded_in_items_and_bytes() -> None:
    made = journal("a", "b", items=2)
    with pytest.raises(ConversationFull, match="2 items"):
        made.append(append("c"))
    made = journal("a", history_bytes=200)
    made.append(append("b", "x" * 50, open=True))
    with pytest.raises(ConversationFull, match="of at most 200"):
        made.append(append("b", "x" * 100, open=True))
    made.delete("b")
    made.append(append("c", "x" * 100))
    assert ids(made) == ["a", "c"]


def test_its_size_is_that_of_its_items() -> None:
    made = journal("a", "b")
    made.append(append("c", "é", open=True))
    made.append(append("c", "é"))
    for item in ("a", "b", "c"):
        made.delete(item)
    assert made.size == 0
