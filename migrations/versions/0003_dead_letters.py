"""What became of each dead letter: a topic's record cannot be dropped, so it is kept here."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UP = """
    ALTER TABLE imagepipe.dead_letters
        ADD COLUMN attempts integer NOT NULL DEFAULT 1,
        ADD COLUMN fate text CHECK (fate IN ('redriven', 'dropped')),
        ADD COLUMN fate_at timestamptz;
    CREATE INDEX dead_letters_open ON imagepipe.dead_letters (recorded_at) WHERE fate IS NULL;
"""

DOWN = """
    DROP INDEX imagepipe.dead_letters_open;
    ALTER TABLE imagepipe.dead_letters
        DROP COLUMN attempts, DROP COLUMN fate, DROP COLUMN fate_at;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
