"""Everything the pipeline needs: the CMS's two tables extended, or made, and our own schema.

`media_assets` and `ai_image_generation_logs` may exist already, with or without the extension
columns. What we create in `public` is marked with a comment, so that a downgrade knows what was
there before us; and it drops a marked table only while it is empty and nothing refers to it.
"""

import re

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OURS = "created by imagepipe"

CMS_TABLES = {
    "media_assets": """
        CREATE TABLE public.media_assets (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            cloudinary_public_id text NOT NULL UNIQUE,
            cloudinary_url text NOT NULL,
            cloudinary_secure_url text NOT NULL,
            asset_type text NOT NULL CHECK (asset_type IN
                ('listing_image', 'blog_image', 'og_image', 'neighborhood_image', 'other')),
            entity_type text,
            entity_id text,
            width integer,
            height integer,
            format text,
            bytes bigint,
            alt_text text,
            alt_text_generated boolean DEFAULT false,
            title text,
            caption text,
            transformations jsonb DEFAULT '{}',
            usage_count integer DEFAULT 0,
            last_used_at timestamptz,
            created_at timestamptz DEFAULT now(),
            updated_at timestamptz DEFAULT now()
        )
    """,
    "ai_image_generation_logs": """
        CREATE TABLE public.ai_image_generation_logs (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            generation_type text NOT NULL,
            image_size text NOT NULL,
            image_quality text NOT NULL,
            cost numeric(10,4) NOT NULL DEFAULT 0,
            success boolean NOT NULL DEFAULT true,
            error_message text,
            media_asset_id uuid REFERENCES public.media_assets(id) ON DELETE SET NULL,
            prompt_hash text,
            context_hash text,
            created_at timestamptz NOT NULL DEFAULT now()
        )
    """,
}

EXTENSION = """
    ALTER TABLE public.media_assets
        ADD COLUMN IF NOT EXISTS prompt_hash text,
        ADD COLUMN IF NOT EXISTS context_hash text,
        ADD COLUMN IF NOT EXISTS generation_cost numeric(10,4),
        ADD COLUMN IF NOT EXISTS generation_metadata jsonb DEFAULT '{}',
        ADD COLUMN IF NOT EXISTS ai_generated boolean DEFAULT false
"""

INDEXES = {
    "imagepipe_media_assets_context_hash": "public.media_assets (context_hash) WHERE ai_generated",
    "imagepipe_media_assets_prompt_hash": "public.media_assets (prompt_hash) WHERE ai_generated",
    "imagepipe_generation_logs_created_at": "public.ai_image_generation_logs (created_at)",
}

OUR_TABLES = """
    CREATE TABLE imagepipe.jobs (
        id uuid PRIMARY KEY,
        sequence bigint NOT NULL,
        state text NOT NULL
            CHECK (state IN ('queued', 'generating', 'generated', 'done', 'failed')),
        priority smallint NOT NULL,
        source text NOT NULL CHECK (source IN ('live', 'backfill', 'api')),
        type text NOT NULL,
        joinable boolean NOT NULL,
        context_hash text NOT NULL,
        prompt_hash text NOT NULL,
        hash_version smallint NOT NULL,
        model text NOT NULL,
        prompt text NOT NULL,
        size text NOT NULL,
        quality text NOT NULL,
        style text,
        output_format text,
        bound_microusd bigint NOT NULL CHECK (bound_microusd >= 0),
        tries smallint NOT NULL DEFAULT 0,
        unknowns smallint NOT NULL DEFAULT 0,
        upload_tries integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        lease uuid,
        lease_until timestamptz,
        error_class text,
        error_code text,
        error_message text,
        asset_id uuid REFERENCES public.media_assets(id) ON DELETE SET NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz
    );
    CREATE UNIQUE INDEX jobs_live_context_hash ON imagepipe.jobs (context_hash)
        WHERE joinable AND state IN ('queued', 'generating', 'generated');
    CREATE UNIQUE INDEX jobs_live_prompt_hash ON imagepipe.jobs (prompt_hash)
        WHERE joinable AND state IN ('queued', 'generating', 'generated');
    CREATE INDEX jobs_queue ON imagepipe.jobs (priority DESC, sequence) WHERE state = 'queued';
    CREATE INDEX jobs_in_hand ON imagepipe.jobs (lease_until)
        WHERE state IN ('generating', 'generated');
    CREATE INDEX jobs_of_asset ON imagepipe.jobs (asset_id) WHERE asset_id IS NOT NULL;

    CREATE TABLE imagepipe.requests (
        id uuid PRIMARY KEY,
        sequence bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
        event_source text NOT NULL,
        event_id text NOT NULL,
        source text NOT NULL CHECK (source IN ('live', 'backfill', 'api')),
        state text NOT NULL CHECK (state IN ('waiting', 'ready', 'failed')),
        type text NOT NULL,
        size text NOT NULL,
        entity_type text,
        entity_id text,
        context_hash text NOT NULL,
        prompt_hash text NOT NULL,
        hash_version smallint NOT NULL,
        alt text NOT NULL,
        alt_generated boolean NOT NULL,
        data jsonb NOT NULL,
        traceparent text,
        job_id uuid REFERENCES imagepipe.jobs(id),
        asset_id uuid REFERENCES public.media_assets(id) ON DELETE SET NULL,
        cached boolean,
        error_code text,
        failures integer NOT NULL DEFAULT 0,
        deferrals integer NOT NULL DEFAULT 0,
        deferred_at timestamptz,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        finished_at timestamptz
    );
    CREATE INDEX requests_of_job ON imagepipe.requests (job_id) WHERE state = 'waiting';
    CREATE INDEX requests_to_defer ON imagepipe.requests (sequence)
        WHERE state = 'waiting' AND deferred_at IS NULL;
    CREATE INDEX requests_of_entity ON imagepipe.requests (entity_type, entity_id);
    CREATE INDEX requests_waiting_entity ON imagepipe.requests (entity_type, entity_id)
        WHERE state = 'waiting';
    CREATE INDEX requests_finished ON imagepipe.requests (finished_at) WHERE cached;
    CREATE INDEX requests_of_asset ON imagepipe.requests (asset_id) WHERE asset_id IS NOT NULL;

    CREATE TABLE imagepipe.attempts (
        id uuid PRIMARY KEY,
        job_id uuid NOT NULL REFERENCES imagepipe.jobs(id),
        state text NOT NULL CHECK (state IN ('started', 'bought', 'refused', 'unknown')),
        started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        call_deadline timestamptz NOT NULL,
        finished_at timestamptz,
        duplicate boolean NOT NULL DEFAULT false,
        error_code text,
        error_message text,
        provider_request_id text,
        usage jsonb,
        cost_microusd bigint,
        cost_basis text,
        revised_prompt text
    );
    CREATE INDEX attempts_of_job ON imagepipe.attempts (job_id);

    CREATE TABLE imagepipe.reservations (
        id uuid PRIMARY KEY,
        at timestamptz NOT NULL,
        source text NOT NULL,
        type text NOT NULL,
        model text NOT NULL,
        state text NOT NULL CHECK (state IN ('held', 'settled', 'released', 'unknown')),
        bound_microusd bigint NOT NULL,
        microusd bigint NOT NULL,
        requests smallint NOT NULL,
        CONSTRAINT reservations_amounts CHECK (microusd >= 0 AND requests IN (0, 1))
    );
    CREATE INDEX reservations_at ON imagepipe.reservations (at);

    CREATE TABLE imagepipe.windows (
        scope text NOT NULL,
        span_seconds integer NOT NULL CHECK (span_seconds > 0),
        upto timestamptz NOT NULL,
        requests bigint NOT NULL,
        microusd bigint NOT NULL,
        PRIMARY KEY (scope, span_seconds)
    );

    CREATE TABLE imagepipe.limits (
        name text PRIMARY KEY,
        scope text NOT NULL,
        span_seconds integer NOT NULL,
        max_requests bigint,
        max_microusd bigint,
        derived boolean NOT NULL DEFAULT false,
        FOREIGN KEY (scope, span_seconds) REFERENCES imagepipe.windows (scope, span_seconds),
        CONSTRAINT limits_not_negative CHECK (max_requests >= 0 AND max_microusd >= 0),
        CONSTRAINT limits_say_something
            CHECK (max_requests IS NOT NULL OR max_microusd IS NOT NULL)
    );

    CREATE TABLE imagepipe.ledger_clock (
        single boolean PRIMARY KEY DEFAULT true,
        instant timestamptz NOT NULL,
        history_from timestamptz NOT NULL,
        CONSTRAINT ledger_clock_one_row CHECK (single)
    );

    CREATE TABLE imagepipe.circuits (
        model text PRIMARY KEY,
        code text NOT NULL,
        message text NOT NULL,
        failures integer NOT NULL,
        probing boolean NOT NULL DEFAULT false,
        opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        paused_until timestamptz NOT NULL
    );

    CREATE TABLE imagepipe.image_spool (
        job_id uuid PRIMARY KEY REFERENCES imagepipe.jobs(id),
        attempt_id uuid NOT NULL REFERENCES imagepipe.attempts(id),
        data bytea NOT NULL,
        format text NOT NULL,
        width integer NOT NULL,
        height integer NOT NULL,
        sha256 text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    ALTER TABLE imagepipe.image_spool ALTER COLUMN data SET STORAGE EXTERNAL;

    CREATE TABLE imagepipe.outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        shard smallint NOT NULL,
        topic text NOT NULL,
        key bytea,
        value bytea,
        headers text NOT NULL,
        request_id uuid,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        published_at timestamptz
    );
    CREATE INDEX outbox_due ON imagepipe.outbox (shard, id) WHERE published_at IS NULL;
    CREATE INDEX outbox_of_request ON imagepipe.outbox (request_id);

    CREATE TABLE imagepipe.dead_letters (
        id uuid PRIMARY KEY,
        topic text NOT NULL,
        partition integer NOT NULL,
        "offset" bigint NOT NULL,
        size bigint NOT NULL,
        sha256 text NOT NULL,
        code text NOT NULL,
        message text NOT NULL,
        whole boolean NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );

    CREATE TABLE imagepipe.entity_images (
        request_id uuid PRIMARY KEY,
        entity_type text NOT NULL,
        entity_id text NOT NULL,
        asset_id uuid REFERENCES public.media_assets(id) ON DELETE SET NULL,
        alt text NOT NULL,
        cached boolean NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX entity_images_of_entity ON imagepipe.entity_images (entity_type, entity_id);
    CREATE INDEX entity_images_of_asset ON imagepipe.entity_images (asset_id);
"""

DEFAULTS = """
    INSERT INTO imagepipe.ledger_clock (instant, history_from)
        VALUES (clock_timestamp(), '-infinity');
    INSERT INTO imagepipe.windows (scope, span_seconds, upto, requests, microusd)
        SELECT scope, span, clock_timestamp() - make_interval(secs => span), 0, 0
        FROM unnest(ARRAY['global', 'source:backfill']) scope, unnest(ARRAY[3600, 86400]) span;
    INSERT INTO imagepipe.limits (name, scope, span_seconds, max_requests, max_microusd, derived)
    VALUES
        ('hour', 'global', 3600, 20, NULL, false),
        ('day', 'global', 86400, 100, NULL, false),
        ('daily-cost', 'global', 86400, NULL, 10000000, false),
        ('backfill-hour', 'source:backfill', 3600, 10, NULL, true),
        ('backfill-day', 'source:backfill', 86400, 50, NULL, true),
        ('backfill-daily-cost', 'source:backfill', 86400, NULL, 5000000, true);
"""


def upgrade() -> None:
    connection = op.get_bind()
    for name, statement in CMS_TABLES.items():
        if connection.scalar(sa.text("SELECT to_regclass(:t)"), {"t": f"public.{name}"}) is None:
            op.execute(statement)
            op.execute(f"COMMENT ON TABLE public.{name} IS '{OURS}'")
    op.execute(EXTENSION)
    for name, on in INDEXES.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {on}")
    op.execute(OUR_TABLES)
    op.execute(DEFAULTS)


def downgrade() -> None:
    for table in reversed(re.findall(r"CREATE TABLE imagepipe\.(\w+)", OUR_TABLES)):
        op.drop_table(table, schema="imagepipe")
    for name in INDEXES:
        op.execute(f"DROP INDEX IF EXISTS public.{name}")
    connection = op.get_bind()
    for name in reversed(CMS_TABLES):
        comment = sa.text("SELECT obj_description(to_regclass(:t))")
        in_use = sa.text(
            f"SELECT EXISTS (SELECT FROM public.{name}) OR EXISTS (SELECT FROM pg_constraint"
            " WHERE contype = 'f' AND confrelid = to_regclass(:t))"
        )
        ours = connection.scalar(comment, {"t": f"public.{name}"}) == OURS
        if ours and not connection.scalar(in_use, {"t": f"public.{name}"}):
            op.drop_table(name, schema="public")
