"""All tables: the CMS's two in `public`, ours in schema `imagepipe`.

Alembic's migrations create them; queries are written against these objects. Money is integer
micro-dollars (1 USD = 1,000,000), instants are timestamptz.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP, UUID

SCHEMA = "imagepipe"
metadata = sa.MetaData()

_now = sa.func.clock_timestamp()
_new_id = sa.func.gen_random_uuid()


def _instant(name: str, *, nullable: bool = False, default: bool = False) -> sa.Column[object]:
    return sa.Column(
        name, TIMESTAMP(timezone=True), nullable=nullable, server_default=_now if default else None
    )


def _uuid(name: str, *args: object, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, UUID(as_uuid=True), *args, nullable=nullable)  # type: ignore[arg-type]


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


media_assets = sa.Table(
    "media_assets",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True, server_default=_new_id),
    _text("cloudinary_public_id"),
    _text("cloudinary_url"),
    _text("cloudinary_secure_url"),
    _text("asset_type"),
    _text("entity_type", nullable=True),
    _text("entity_id", nullable=True),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    _text("format", nullable=True),
    sa.Column("bytes", sa.BigInteger),
    _text("alt_text", nullable=True),
    sa.Column("alt_text_generated", sa.Boolean),
    _text("title", nullable=True),
    _text("caption", nullable=True),
    sa.Column("transformations", JSONB),
    sa.Column("usage_count", sa.Integer),
    _instant("last_used_at", nullable=True),
    _instant("created_at", nullable=True),
    _instant("updated_at", nullable=True),
    _text("prompt_hash", nullable=True),
    _text("context_hash", nullable=True),
    sa.Column("generation_cost", sa.Numeric(10, 4)),
    sa.Column("generation_metadata", JSONB),
    sa.Column("ai_generated", sa.Boolean),
)

ai_image_generation_logs = sa.Table(
    "ai_image_generation_logs",
    metadata,
    sa.Column("id", UUID(as_uuid=True), primary_key=True),  # the attempt's id
    _text("generation_type"),
    _text("image_size"),
    _text("image_quality"),
    sa.Column("cost", sa.Numeric(10, 4), nullable=False),
    sa.Column("success", sa.Boolean, nullable=False),
    _text("error_message", nullable=True),
    _uuid("media_asset_id"),
    _text("prompt_hash", nullable=True),
    _text("context_hash", nullable=True),
    _instant("created_at"),
)

requests = sa.Table(
    "requests",
    metadata,
    _uuid("id", nullable=False),  # UUIDv5 of (event_source, event_id): the identity itself
    sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), nullable=False),
    _text("event_source"),
    _text("event_id"),
    _text("source"),  # live | backfill | api
    _text("state"),  # waiting | ready | failed
    _text("type"),
    _text("size"),  # asked for, or the type's default
    _text("entity_type", nullable=True),
    _text("entity_id", nullable=True),
    _text("context_hash"),
    _text("prompt_hash"),
    sa.Column("hash_version", sa.SmallInteger, nullable=False),
    _text("alt"),
    sa.Column("alt_generated", sa.Boolean, nullable=False),
    sa.Column("data", JSONB, nullable=False),  # the request as it was accepted, wire names
    _text("traceparent", nullable=True),
    _uuid("job_id", sa.ForeignKey(f"{SCHEMA}.jobs.id")),
    _uuid("asset_id", sa.ForeignKey("media_assets.id", ondelete="SET NULL")),
    sa.Column("cached", sa.Boolean),
    _text("error_code", nullable=True),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),  # said so far
    sa.Column("deferrals", sa.Integer, nullable=False, server_default="0"),
    _instant("deferred_at", nullable=True),  # said so during the present wait
    _instant("attended_until", nullable=True),  # over HTTP, while somebody waits for a start
    _instant("received_at", default=True),
    _instant("finished_at", nullable=True),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("requests_of_job", "job_id", postgresql_where=sa.text("state = 'waiting'")),
    sa.Index(
        "requests_to_defer",
        "sequence",
        postgresql_where=sa.text("state = 'waiting' AND deferred_at IS NULL"),
    ),
    sa.Index("requests_of_entity", "entity_type", "entity_id"),
    sa.Index(
        "requests_waiting_entity",
        "entity_type",
        "entity_id",
        postgresql_where=sa.text("state = 'waiting'"),
    ),
    sa.Index("requests_finished", "finished_at", postgresql_where=sa.text("cached")),
    sa.Index("requests_of_asset", "asset_id", postgresql_where=sa.text("asset_id IS NOT NULL")),
    sa.Index(
        "requests_backfill",
        "event_source",
        "state",
        postgresql_where=sa.text("source = 'backfill'"),
    ),
    sa.Index(
        "requests_attended",
        "attended_until",
        postgresql_where=sa.text("state = 'waiting' AND attended_until IS NOT NULL"),
    ),
    schema=SCHEMA,
)

_live = "state IN ('queued', 'generating', 'generated')"

jobs = sa.Table(
    "jobs",
    metadata,
    _uuid("id", nullable=False),  # the id of the request that opened it
    sa.Column("sequence", sa.BigInteger, nullable=False),  # of that request: its age
    _text("state"),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    _text("source"),
    _text("type"),
    sa.Column("joinable", sa.Boolean, nullable=False),  # false: skipCache, or late bytes
    _text("context_hash"),
    _text("prompt_hash"),
    sa.Column("hash_version", sa.SmallInteger, nullable=False),
    _text("model"),
    _text("prompt"),
    _text("size"),  # as sent
    _text("quality"),  # as sent
    _text("style", nullable=True),
    _text("output_format", nullable=True),
    sa.Column("bound_microusd", sa.BigInteger, nullable=False),
    sa.Column("tries", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("unknowns", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("upload_tries", sa.Integer, nullable=False, server_default="0"),
    _instant("due_at", default=True),
    _uuid("lease"),  # the attempt, or the upload, that has the job in hand
    _instant("lease_until", nullable=True),
    _uuid("reserved"),  # a reservation made for this job before an attempt: the attempt's id to be
    _text("error_class", nullable=True),
    _text("error_code", nullable=True),
    _text("error_message", nullable=True),
    _uuid("asset_id", sa.ForeignKey("media_assets.id", ondelete="SET NULL")),
    _instant("created_at", default=True),
    _instant("finished_at", nullable=True),
    sa.PrimaryKeyConstraint("id"),
    sa.Index(
        "jobs_live_context_hash",
        "context_hash",
        unique=True,
        postgresql_where=sa.text(f"joinable AND {_live}"),
    ),
    sa.Index(
        "jobs_live_prompt_hash",
        "prompt_hash",
        unique=True,
        postgresql_where=sa.text(f"joinable AND {_live}"),
    ),
    sa.Index(
        "jobs_queue",
        "source",
        "type",
        sa.text("priority DESC"),
        "sequence",
        postgresql_where=sa.text("state = 'queued'"),
    ),
    sa.Index(
        "jobs_in_hand",
        "lease_until",
        postgresql_where=sa.text("state IN ('generating', 'generated')"),
    ),
    sa.Index("jobs_of_asset", "asset_id", postgresql_where=sa.text("asset_id IS NOT NULL")),
    sa.Index("jobs_reserved", "id", postgresql_where=sa.text("reserved IS NOT NULL")),
    schema=SCHEMA,
)

attempts = sa.Table(
    "attempts",
    metadata,
    _uuid("id", nullable=False),  # also the id of its reservation and of its log row
    _uuid("job_id", sa.ForeignKey(f"{SCHEMA}.jobs.id"), nullable=False),
    _text("state"),  # started | bought | refused | unknown
    _instant("started_at", default=True),
    _instant("call_deadline"),
    _instant("finished_at", nullable=True),
    sa.Column("duplicate", sa.Boolean, nullable=False, server_default="false"),
    _text("error_code", nullable=True),
    _text("error_message", nullable=True),
    _text("provider_request_id", nullable=True),
    sa.Column("usage", JSONB),
    sa.Column("cost_microusd", sa.BigInteger),
    _text("cost_basis", nullable=True),  # actual | estimated
    _text("revised_prompt", nullable=True),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("attempts_of_job", "job_id"),
    schema=SCHEMA,
)

reservations = sa.Table(
    "reservations",
    metadata,
    _uuid("id", nullable=False),
    _instant("at"),  # the ledger's instant, never going back
    _text("source"),
    _text("type"),
    _text("model"),
    _text("state"),  # held | settled | released | unknown
    sa.Column("bound_microusd", sa.BigInteger, nullable=False),
    sa.Column("microusd", sa.BigInteger, nullable=False),  # what counts now
    sa.Column("requests", sa.SmallInteger, nullable=False),  # 1, or 0 once released
    sa.PrimaryKeyConstraint("id"),
    sa.CheckConstraint("microusd >= 0 AND requests IN (0, 1)", name="reservations_amounts"),
    sa.Index("reservations_at", "at"),
    schema=SCHEMA,
)

windows = sa.Table(
    "windows",
    metadata,
    _text("scope"),  # global | source:live | type:listing ...
    sa.Column("span_seconds", sa.Integer, nullable=False),
    _instant("upto"),  # reservations at or before it have been subtracted
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("microusd", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("scope", "span_seconds"),
    schema=SCHEMA,
)

limits = sa.Table(
    "limits",
    metadata,
    _text("name"),
    _text("scope"),
    sa.Column("span_seconds", sa.Integer, nullable=False),
    sa.Column("max_requests", sa.BigInteger),
    sa.Column("max_microusd", sa.BigInteger),
    sa.Column("derived", sa.Boolean, nullable=False, server_default="false"),  # backfill's share
    sa.PrimaryKeyConstraint("name"),
    sa.ForeignKeyConstraint(
        ["scope", "span_seconds"], [f"{SCHEMA}.windows.scope", f"{SCHEMA}.windows.span_seconds"]
    ),
    sa.CheckConstraint("max_requests >= 0 AND max_microusd >= 0", name="limits_not_negative"),
    sa.CheckConstraint(
        "max_requests IS NOT NULL OR max_microusd IS NOT NULL", name="limits_say_something"
    ),
    schema=SCHEMA,
)

ledger_clock = sa.Table(
    "ledger_clock",
    metadata,
    sa.Column("single", sa.Boolean, primary_key=True, server_default="true"),
    _instant("instant"),  # of the latest change; its row lock is the ledger's lock
    _instant("history_from"),  # reservations before it may have been pruned
    sa.CheckConstraint("single", name="ledger_clock_one_row"),
    schema=SCHEMA,
)

circuits = sa.Table(
    "circuits",
    metadata,
    _text("model"),
    _text("code"),
    _text("message"),
    sa.Column("failures", sa.Integer, nullable=False),  # in a row; 0: a mere pause
    sa.Column("probing", sa.Boolean, nullable=False, server_default="false"),  # one call is out
    _instant("opened_at", default=True),
    _instant("paused_until"),  # infinity: until an operator resumes it
    sa.PrimaryKeyConstraint("model"),
    schema=SCHEMA,
)

image_spool = sa.Table(
    "image_spool",
    metadata,
    _uuid("job_id", sa.ForeignKey(f"{SCHEMA}.jobs.id"), nullable=False),
    _uuid("attempt_id", sa.ForeignKey(f"{SCHEMA}.attempts.id"), nullable=False),
    sa.Column("data", BYTEA, nullable=False),
    _text("format"),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    _text("sha256"),
    _instant("received_at", default=True),
    sa.PrimaryKeyConstraint("job_id"),
    schema=SCHEMA,
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("shard", sa.SmallInteger, nullable=False),  # by the key's hash
    _text("topic"),
    sa.Column("key", BYTEA),
    sa.Column("value", BYTEA),
    _text("headers"),
    _uuid("request_id"),
    _instant("created_at", default=True),
    _instant("published_at", nullable=True),
    sa.Index("outbox_due", "shard", "id", postgresql_where=sa.text("published_at IS NULL")),
    sa.Index("outbox_of_request", "request_id"),
    schema=SCHEMA,
)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    _uuid("id", nullable=False),  # UUIDv5 of the record's coordinates and value
    _text("topic"),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    _text("sha256"),
    _text("code"),
    _text("message"),
    sa.Column("whole", sa.Boolean, nullable=False),  # false: too large to publish again
    sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
    _text("fate", nullable=True),  # redriven | dropped; open otherwise
    _instant("fate_at", nullable=True),
    _instant("recorded_at", default=True),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("dead_letters_open", "recorded_at", postgresql_where=sa.text("fate IS NULL")),
    schema=SCHEMA,
)

entity_images = sa.Table(
    "entity_images",
    metadata,
    _uuid("request_id", nullable=False),
    _text("entity_type"),
    _text("entity_id"),
    _uuid("asset_id", sa.ForeignKey("media_assets.id", ondelete="SET NULL")),
    _text("alt"),
    sa.Column("cached", sa.Boolean, nullable=False),
    _instant("at", default=True),
    sa.PrimaryKeyConstraint("request_id"),
    sa.Index("entity_images_of_entity", "entity_type", "entity_id"),
    sa.Index("entity_images_of_asset", "asset_id"),
    schema=SCHEMA,
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    _text("owner"),  # the API key's name; empty where there are none
    _text("key"),
    _text("fingerprint"),  # SHA-256 of the body
    _uuid("request_id", nullable=False),
    sa.Column("status", sa.SmallInteger),  # the saved answer's, once there is one
    sa.Column("answer", JSONB),
    _instant("created_at", default=True),
    sa.PrimaryKeyConstraint("owner", "key"),
    sa.Index("idempotency_keys_created", "created_at"),
    schema=SCHEMA,
)

replays = sa.Table(
    "replays",
    metadata,
    _text("id"),  # the operator's word, or derived from topic and options
    _text("topic"),
    _text("options"),  # as one canonical command line
    sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("new", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("known", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("undecodable", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reemitted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("gone", sa.BigInteger, nullable=False, server_default="0"),  # no asset to re-emit
    _instant("started_at", default=True),
    _instant("finished_at", nullable=True),
    sa.PrimaryKeyConstraint("id"),
    schema=SCHEMA,
)

replay_positions = sa.Table(
    "replay_positions",
    metadata,
    sa.Column(
        "replay_id",
        sa.Text,
        sa.ForeignKey(f"{SCHEMA}.replays.id", ondelete="CASCADE"),
        nullable=False,
    ),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("first_offset", sa.BigInteger, nullable=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),  # everything before it is done
    sa.Column("end_offset", sa.BigInteger, nullable=False),  # fixed when the replay begins
    sa.PrimaryKeyConstraint("replay_id", "partition"),
    schema=SCHEMA,
)
