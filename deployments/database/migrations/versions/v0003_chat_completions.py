"""Chat completions, what each can be found by, and what each tenant has of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes their tables."""
    op.create_table(
        "chat_completions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("completion", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("listed_bytes", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("chat_completions_expire", "chat_completions", ["expires_at"])
    op.create_index("chat_completions_expire_of_tenant", "chat_completions", ["tenant", "expires_at"])
    op.create_index("chat_completions_of_tenant", "chat_completions", ["tenant", "id"])
    op.create_table(
        "chat_completion_labels",
        sa.Column(
            "completion", sa.String(64), sa.ForeignKey("chat_completions.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("label", sa.String(64), primary_key=True),
    )
    op.create_index("chat_completion_labels_by_label", "chat_completion_labels", ["label", "completion"])
    op.create_table(
        "chat_completion_tenants",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
