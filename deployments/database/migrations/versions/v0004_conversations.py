"""Conversations and their items, and what each tenant has of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes their tables, and says of a response in which conversation it is."""
    op.add_column("responses", sa.Column("conversation", sa.String(64)))
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("item_count", sa.Integer, nullable=False),
        sa.Column("last_number", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("conversations_expire", "conversations", ["expires_at"])
    op.create_index("conversations_of_tenant", "conversations", ["tenant", "expires_at"])
    op.create_table(
        "conversation_items",
        sa.Column(
            "conversation", sa.String(64), sa.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("item", sa.Text, nullable=False),
    )
    op.create_index("conversation_items_by_id", "conversation_items", ["conversation", "id"])
    op.create_table(
        "conversation_tenants",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Removes them, with what is in them."""
    for table in ("conversation_tenants", "conversation_items", "conversations"):
        op.drop_table(table)
    op.drop_column("responses", "conversation")
