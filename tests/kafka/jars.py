"""Apache Kafka's own jars: fetched by Maven once for each `pom.xml`, then found on disk.

`python -m tests.kafka.jars` fetches them ahead of the tests.
"""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
LIBS = POM.parent / "target" / "libs"
STAMP = LIBS / "pom.sha256"  # written last: its presence says that the folder is complete

JAVA_FOR_KAFKA_4 = 17
DOWNLOAD_SECONDS = 600


class JarsUnavailable(RuntimeError):
    """Kafka's jars cannot be had or run on this machine; the message says why."""


def java_version() -> int:
    """The major version of `java` on the PATH, 0 when there is none that runs."""
    if shutil.which("java") is None:
        return 0
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found[1]) if found else 0


def complete() -> bool:
    """Whether the jars on disk are those of the present `pom.xml`."""
    return STAMP.exists() and STAMP.read_text() == pom_hash()


def pom_hash() -> str:
    """SHA-256 (hex) of `pom.xml`."""
    return hashlib.sha256(POM.read_bytes()).hexdigest()


def fetch() -> Path:
    """The folder that holds the jars, after Maven has filled it where it was not complete.

    Raises `JarsUnavailable` when Java is too old, or Maven is missing, fails, or takes longer
    than ten minutes.
    """
    if java_version() < JAVA_FOR_KAFKA_4:
        raise JarsUnavailable(f"Java {JAVA_FOR_KAFKA_4} or newer is not installed")
    if complete():
        return LIBS
    shutil.rmtree(LIBS, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(POM), "package"]
    try:
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=DOWNLOAD_SECONDS
        )
    except FileNotFoundError as error:
        raise JarsUnavailable("Maven (mvn) is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise JarsUnavailable(f"Maven was not done after {DOWNLOAD_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise JarsUnavailable(f"Maven failed:\n{error.stdout}{error.stderr}") from error
    STAMP.write_text(pom_hash())
    return LIBS


if __name__ == "__main__":
    try:
        fetch()
    except JarsUnavailable as error:
        raise SystemExit(f"Apache Kafka's jars cannot be had. {error}") from error
