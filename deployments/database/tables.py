"""The tables. A change here takes a migration beside it (`migrations/versions`)."""

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()


def _shares(name: str) -> Table:
    """What each tenant has in a table of `tenant_rows.TenantRows`, in bytes."""
    return Table(name, METADATA, Column("tenant", Text, primary_key=True), Column("bytes", BigInteger, nullable=False))


REALTIME_SESSIONS = Table(
    "realtime_sessions",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("model", Text, nullable=False),
    # Counts who holds it: each that takes it up adds one, and whoever comes with an older number has lost it.
    Column("epoch", Integer, nullable=False),
    # TurnSettings, as JSON.
    Column("settings", Text, nullable=False),
    # Of its items.
    Column("bytes", BigInteger, nullable=False),
    # Unix seconds.
    Column("expires_at", Double, nullable=False),
    Index("realtime_sessions_expire", "expires_at"),
    Index("realtime_sessions_of_tenant", "tenant", "expires_at"),
)

REALTIME_ITEMS = Table(
    "realtime_items",
    METADATA,
    Column("session", String(64), ForeignKey("realtime_sessions.id", ondelete="CASCADE"), primary_key=True),
    # Names it in its session: the client's own name may be anything, also what a database takes for no text.
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    # Items are in its order. One that comes between two others has a position between theirs.
    Column("position", Double, nullable=False),
    # Item, as JSON.
    Column("item", Text, nullable=False),
)

RESPONSES = Table(
    "responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    # The response that it goes on from, which may be gone by now.
    Column("previous", String(64)),
    # The conversation that it is in, which may be gone by now.
    Column("conversation", String(64)),
    # How many responses there are up to this one, and the bytes of what was said in all of them.
    Column("depth", Integer, nullable=False),
    Column("history_bytes", BigInteger, nullable=False),
    # All as JSON: the response without its output, and the items of its input and of its output, as clients read them;
    # and the rhythm of its stream.
    Column("response", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("output", Text, nullable=False),
    Column("rhythm", Text, nullable=False),
    # Of those four.
    Column("bytes", BigInteger, nullable=False),
    # Unix seconds.
    Column("expires_at", Double, nullable=False),
    Index("responses_expire", "expires_at"),
    Index("responses_of_tenant", "tenant", "expires_at"),
)

RESPONSE_TENANTS = _shares("response_tenants")

BACKGROUND_RESPONSES = Table(
    "background_responses",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    # All as JSON: how it is told, the items of its input as clients read them, and what takes it to make it.
    Column("head", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("request", Text, nullable=False),
    # Of those three and of its batches.
    Column("bytes", BigInteger, nullable=False),
    Column("is_cancelled", Boolean, nullable=False),
    # Counts who holds it: each that takes it adds one, and whoever writes with an older number has lost it.
    Column("epoch", Integer, nullable=False),
    # Who makes it; null: nobody, until `lease_until`, Unix seconds, as after the end of a lease.
    Column("holder", String(64)),
    Column("lease_until", Double, nullable=False),
    # How often there was no room for it, and how often in a row its holder was lost with nothing said in between.
    Column("tries", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    # How many batches of events there are.
    Column("batches", Integer, nullable=False),
    # Unix seconds; the second: of its first event, null before that.
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Index("background_responses_lease", "lease_until"),
    Index("background_responses_of_tenant", "tenant"),
)

BACKGROUND_BATCHES = Table(
    "background_batches",
    METADATA,
    Column("response", String(64), ForeignKey("background_responses.id", ondelete="CASCADE"), primary_key=True),
    # From 0, without gaps.
    Column("number", Integer, primary_key=True, autoincrement=False),
    # Events, as JSON.
    Column("batch", Text, nullable=False),
)

CHAT_COMPLETIONS = Table(
    "chat_completions",
    METADATA,
    # In the order of their ids they were made.
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("model", Text, nullable=False),
    # All as JSON: the completion as clients read it, without its metadata; that; and the messages that it answers, one
    # a line.
    Column("completion", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("messages", Text, nullable=False),
    # Of the first two, which are what a list reads.
    Column("listed_bytes", BigInteger, nullable=False),
    # Of all three.
    Column("bytes", BigInteger, nullable=False),
    # Unix seconds.
    Column("expires_at", Double, nullable=False),
    Index("chat_completions_expire", "expires_at"),
    Index("chat_completions_expire_of_tenant", "tenant", "expires_at"),
    Index("chat_completions_of_tenant", "tenant", "id"),
)

CHAT_COMPLETION_LABELS = Table(
    "chat_completion_labels",
    METADATA,
    Column("completion", String(64), ForeignKey("chat_completions.id", ondelete="CASCADE"), primary_key=True),
    # A digest of what it can be found by: its model, or a pair of its metadata. Those may be any text, also what a
    # database takes for none, and longer than what it can index.
    Column("label", String(64), primary_key=True),
    Index("chat_completion_labels_by_label", "label", "completion"),
)

CHAT_COMPLETION_TENANTS = _shares("chat_completion_tenants")

CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    # Unix seconds.
    Column("created_at", BigInteger, nullable=False),
    # As JSON.
    Column("metadata", Text, nullable=False),
    # How many items there are, and the number of the last that there was.
    Column("item_count", Integer, nullable=False),
    Column("last_number", BigInteger, nullable=False),
    # Of its metadata and its items, and what their rows cost.
    Column("bytes", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("conversations_expire", "expires_at"),
    Index("conversations_of_tenant", "tenant", "expires_at"),
)

CONVERSATION_ITEMS = Table(
    "conversation_items",
    METADATA,
    Column("conversation", String(64), ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    # Items are in its order.
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False),
    # As clients read it, as JSON.
    Column("item", Text, nullable=False),
    Index("conversation_items_by_id", "conversation", "id"),
)

CONVERSATION_TENANTS = _shares("conversation_tenants")
