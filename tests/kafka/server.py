"""One Apache Kafka node (KRaft, broker and controller) as a child process on loopback."""

import random
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

START_SECONDS = 60
STOP_SECONDS = 30
ASK_AGAIN_SECONDS = 0.05
CLUSTER_ID = "imagepipe_tests_node_A"  # 22 letters of base64: a cluster id is a UUID

# A short life on a shared machine: a small heap, no time spent on optimising.
JVM = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN"]

PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{controller}
log.dirs={data}

# One node holds every replica.
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1

# Topics exist only when somebody creates them, as on a well-run production cluster.
auto.create.topics.enable=false

# Tests neither wait for further members of a group nor long for one that was killed.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000

# A killed broker is let in again when its old session has ended: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


class KafkaServer:
    """A broker that can be stopped, killed and started again on the same port and data.

    `directory` receives the data, `server.properties` and, for the time after a failure,
    `server.log`. `libs` is the folder of Kafka's jars.
    """

    def __init__(self, directory: Path, libs: Path) -> None:
        self._directory = directory
        self._classpath = str(libs / "*")
        self._process: subprocess.Popen[bytes] | None = None
        self.log = directory / "server.log"
        broker, controller = free_ports(2)
        self.bootstrap_servers = f"127.0.0.1:{broker}"
        self._controller = f"127.0.0.1:{controller}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the broker and return when it answers.

        Raises `RuntimeError` with the log when it does not, and `subprocess.SubprocessError` when
        its storage cannot be formatted.
        """
        properties = self._directory / "server.properties"
        if not properties.exists():
            self._format(properties)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_for_answer(self._process)

    def stop(self) -> None:
        """End the broker in good order (SIGTERM); one that does not end is killed."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the broker as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _format(self, properties: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        properties.write_text(
            PROPERTIES.format(
                broker=self.bootstrap_servers,
                controller=self._controller,
                data=self._directory / "data",
            )
        )
        arguments = ["format", "-t", CLUSTER_ID, "-c", str(properties)]
        with self.log.open("ab") as log:
            subprocess.run(
                self._command("kafka.tools.StorageTool", *arguments),
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=START_SECONDS,
                check=True,
            )

    def _command(self, main: str, *arguments: str) -> list[str]:
        return [*JVM, "-cp", self._classpath, main, *arguments]

    def _wait_for_answer(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.bootstrap_servers):
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{self.log.read_text()}")
            time.sleep(ASK_AGAIN_SECONDS)


def _answers(address: str) -> bool:
    """Whether an unfenced broker answers within a second (KRaft opens the port before that)."""
    host, port = address.split(":")
    try:
        # kafka-python leaves a socket open for each refused connection: let it meet none.
        socket.create_connection((host, int(port))).close()
        admin = KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=1000)
    except (OSError, KafkaError):
        return False
    try:
        return any(not broker["is_fenced"] for broker in admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()


def free_ports(count: int) -> list[int]:
    """Free loopback ports below the range that systems hand out to outgoing connections.

    From that range another client's connection could take the port while the broker restarts.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 100):
        if len(found) < count and _is_free(port):
            found.append(port)
    if len(found) < count:
        raise RuntimeError(f"no {count} free ports between 20000 and 32000")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
