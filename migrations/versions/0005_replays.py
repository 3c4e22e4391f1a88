"""Replays of a topic: how far each has come, and what it has found so far."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UP = """
    CREATE TABLE imagepipe.replays (
        id text PRIMARY KEY,
        topic text NOT NULL,
        options text NOT NULL,
        records bigint NOT NULL DEFAULT 0,
        new bigint NOT NULL DEFAULT 0,
        known bigint NOT NULL DEFAULT 0,
        undecodable bigint NOT NULL DEFAULT 0,
        reemitted bigint NOT NULL DEFAULT 0,
        gone bigint NOT NULL DEFAULT 0,
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz
    );
    CREATE TABLE imagepipe.replay_positions (
        replay_id text NOT NULL REFERENCES imagepipe.replays ON DELETE CASCADE,
        partition integer NOT NULL,
        first_offset bigint NOT NULL,
        next_offset bigint NOT NULL,
        end_offset bigint NOT NULL,
        PRIMARY KEY (replay_id, partition)
    );
"""

DOWN = """
    DROP TABLE imagepipe.replay_positions;
    DROP TABLE imagepipe.replays;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
