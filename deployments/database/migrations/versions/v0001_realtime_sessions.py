"""Realtime sessions and their items."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes their tables."""
    op.create_table(
        "realtime_sessions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("realtime_sessions_expire", "realtime_sessions", ["expires_at"])
    op.create_index("realtime_sessions_of_tenant", "realtime_sessions", ["tenant", "expires_at"])
    op.create_table(
        "realtime_items",
        sa.Column(
            "session", sa.String(64), sa.ForeignKey("realtime_sessions.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Double, nullable=False),
        sa.Column("item", sa.Text, nullable=False),
    )
