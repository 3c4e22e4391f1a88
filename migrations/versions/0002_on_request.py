"""Requests over HTTP, which somebody waits for; and a queue read by scope.

The best jobs of open scopes are then found without reading those of closed ones.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = """
    DROP INDEX imagepipe.jobs_queue;
    CREATE INDEX jobs_queue ON imagepipe.jobs (source, type, priority DESC, sequence)
        WHERE state = 'queued';

    ALTER TABLE imagepipe.jobs ADD COLUMN reserved uuid;
    CREATE INDEX jobs_reserved ON imagepipe.jobs (id) WHERE reserved IS NOT NULL;

    ALTER TABLE imagepipe.requests ADD COLUMN attended_until timestamptz;
    CREATE INDEX requests_attended ON imagepipe.requests (attended_until)
        WHERE state = 'waiting' AND attended_until IS NOT NULL;

    CREATE TABLE imagepipe.idempotency_keys (
        owner text NOT NULL,
        key text NOT NULL,
        fingerprint text NOT NULL,
        request_id uuid NOT NULL,
        status smallint,
        answer jsonb,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (owner, key)
    );
    CREATE INDEX idempotency_keys_created ON imagepipe.idempotency_keys (created_at);

    CREATE INDEX IF NOT EXISTS imagepipe_media_assets_created_at
        ON public.media_assets (created_at, id) WHERE ai_generated;
"""

DOWN = """
    DROP INDEX IF EXISTS public.imagepipe_media_assets_created_at;
    DROP TABLE imagepipe.idempotency_keys;
    ALTER TABLE imagepipe.requests DROP COLUMN attended_until;
    ALTER TABLE imagepipe.jobs DROP COLUMN reserved;
    DROP INDEX imagepipe.jobs_queue;
    CREATE INDEX jobs_queue ON imagepipe.jobs (priority DESC, sequence) WHERE state = 'queued';
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
