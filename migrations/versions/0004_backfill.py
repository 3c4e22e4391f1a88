"""Backfill: which entities have a picture, and how far a source has come, without reading all."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UP = """
    CREATE INDEX requests_backfill ON imagepipe.requests (event_source, state)
        WHERE source = 'backfill';
    CREATE INDEX IF NOT EXISTS imagepipe_media_assets_entity
        ON public.media_assets (entity_type, entity_id);
"""

DOWN = """
    DROP INDEX IF EXISTS public.imagepipe_media_assets_entity;
    DROP INDEX imagepipe.requests_backfill;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
