"""Apache Kafka from its own jars, run as a child process."""
