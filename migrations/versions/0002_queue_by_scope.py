"""The queue by scope: the best jobs of open scopes are found without reading the others."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP INDEX imagepipe.jobs_queue")
    op.execute("""
        CREATE INDEX jobs_queue ON imagepipe.jobs (source, type, priority DESC, sequence)
            WHERE state = 'queued'
    """)


def downgrade() -> None:
    op.execute("DROP INDEX imagepipe.jobs_queue")
    op.execute("""
        CREATE INDEX jobs_queue ON imagepipe.jobs (priority DESC, sequence)
            WHERE state = 'queued'
    """)
