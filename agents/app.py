"""The Faust application: `faust -A agents.app worker -l info`, or `imagepipe worker`.

It starts three loops, listed here one by one: the agent `intake`, and the services `Generate`
and `Announce`. They share nothing but the database and a nudge when there is work.
"""

import gc
import sys
import tempfile
from collections.abc import Iterable

import faust
import structlog
from faust.app import BootStrategy
from mode.types import ServiceT

from agents.announce import Announce
from agents.generate import Generate
from agents.intake import intake
from agents.transport import Transport
from pipeline import logs, migrate, topics, wiring
from pipeline.settings import Settings, SettingsError, load

log = structlog.get_logger()


class WithoutWeb(BootStrategy):
    """Leaves Faust's web server out, whatever the command line says: its pages are open to all,
    and its fixed port would allow one worker per machine."""

    enable_web = False


class App(faust.App):
    """Faust's application, which waits for a migrated database, for Kafka and for its topics
    before anything starts."""

    BootStrategy = WithoutWeb
    settings: Settings
    worker: wiring.Worker

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        """Generate and Announce come first: they start without waiting for partitions, which takes
        a session's time after a crash, and stop last, when intake has finished its batch.
        Announce outlives Generate, and closes the worker."""
        loops = [Announce(self.worker), Generate(self.worker)]
        return [*loops, *super().on_init_dependencies()]

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def on_first_start(self) -> None:
        model = self.worker.model
        if model.shutdown_date:
            log.warning(
                "the configured model is being shut down",
                model=model.name,
                on=str(model.shutdown_date),
            )
        await migrate.wait_until_current(self.settings.database_url)
        await topics.wait_until_ensured(self.settings)
        await super().on_first_start()
        gc.collect()
        gc.freeze()  # what has been made until now stays: the collector need not look through it


def create_app(settings: Settings, worker: wiring.Worker) -> faust.App:
    """The application with its loops; it connects when it is started, not here."""
    app = App(
        settings.kafka_group,
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        broker_max_poll_interval=86_400,  # progress is watched from outside
        broker_session_timeout=settings.kafka_session_timeout,
        broker_heartbeat_interval=min(3, settings.kafka_session_timeout / 6),
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,  # a batch in hand is finished on SIGTERM
        stream_buffer_maxsize=16_384,
        cython_optimizations=True,  # one decoding an event, and none of the waits between them
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,  # `pipeline.topics` creates them all, before this starts
        datadir=tempfile.gettempdir(),  # there are no tables: nothing is ever written there
        logging_config=logs.config(settings.log_format),
    )
    app.settings, app.worker = settings, worker
    topic = app.topic(
        settings.topic_entity_created,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )
    app.agent(topic, name="intake", concurrency=1)(intake(worker, settings.batch_size))
    return app


def _credentials(settings: Settings) -> object:
    protocol = settings.kafka_security_protocol
    context = wiring.tls_context(settings) if "SSL" in protocol else None
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    security = wiring.kafka_security(settings)
    return faust.SASLCredentials(
        username=security["sasl_plain_username"],
        password=security["sasl_plain_password"],
        mechanism=security["sasl_mechanism"],
        ssl_context=context,
    )


try:
    _settings = load()
    logs.configure(_settings.log_format)
    app = create_app(_settings, wiring.worker(_settings))
except SettingsError as error:
    sys.stderr.write(f"imagepipe: {error}\n")
    sys.exit(2)
