"""Chaos: real workers on a real Kafka and PostgreSQL, attacked for a while, audited afterwards.

`python -m tests.chaos --seed 7 --kills 200 --minutes 30` builds a stage (`stage`): a broker and a
database of its own, the sandbox as image model and media host, limits of a few seconds, and
triggers that write down what becomes of the money and the jobs (`history`). On it run workers that
die or freeze at the fault points of `pipeline.faultpoints` (`attack`), while a plan of events
(`plan`) is published, the model and the host fail now and then, and broker and database are
restarted. Then healthy workers finish what is left, and `evidence` is collected (`collection`) and
judged (`audit`): never by the clock, only by what Kafka, PostgreSQL and the sandbox hold.

What is published and which attack comes next follows from the seed; when exactly it meets the
workers does not, so a second run with the same seed is alike but not identical.
"""
