"""Responses that are made in the background, and the events that they have said by now."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes their tables."""
    op.create_table(
        "background_responses",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("is_cancelled", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("batches", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
    )
    op.create_index("background_responses_lease", "background_responses", ["lease_until"])
    op.create_index("background_responses_of_tenant", "background_responses", ["tenant"])
    op.create_table(
        "background_batches",
        sa.Column(
            "response", sa.String(64), sa.ForeignKey("background_responses.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("batch", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Removes them, with what is in them."""
    for table in ("background_batches", "background_responses"):
        op.drop_table(table)
