"""imagepipe: a CMS's `entity-created` events in, pictures and `image-ready` events out.

The whole story
===============

An event arrives on Kafka. `agents.intake` takes it in batches, `events.decode` turns bytes into a
validated request, `preparation.prepare` computes everything that needs no I/O: two fingerprints
(`context_hash`: what was asked; `prompt_hash`: what would be sent), the prompt, the price's upper
bound. Every request is written down under its identity, and its picture looked for. If it exists,
that is a *hit*: **one statement** (`hits`) records and answers all of a batch. **One transaction**
(`intake.record`) does the rest: a picture is being made (the request *joins* that job), or has to
be bought (a *job* is opened). What cannot be understood becomes a dead letter. Only when all of it
is durable are the offsets committed.

A job moves `queued -> generating -> generated -> done`, or ends as `failed`
(`rules.lifecycle`). `agents.generate` claims due jobs (`claims.claim`) **together with their
money**: in the same transaction the ledger reserves each purchase's upper bound in every sliding
window it falls into, or the job stays queued. Then the image model is called, once. The bytes are
written to the spool in PostgreSQL in the transaction that settles the real cost
(`settlement.keep_pictures`), are uploaded to the media host, and at last one transaction
(`completion.complete`) stores the asset, ends the job and answers everybody who waits for it.

A request over HTTP (`api.generate`, `orders`) takes the same way: a hit is one statement, a miss
one transaction that records it, opens its job and reserves its money (`admission`), or refuses it
and leaves nothing behind. A worker makes the picture; `waiting` answers whoever waits for it.

A topic can be taken in again (`replay`, `replays`, `reemission`): through the same intake, as
backfill, from where an operator says.

Answers, refusals and dead letters are rows of the outbox, written in the transaction that decided
them. `agents.announce` publishes them to Kafka and marks them once the broker has acknowledged.

Three promises
==============

1. Every distinct picture is paid for once. Two partial unique indexes allow one live job per
   fingerprint, a claim looks for an existing asset once more, and the SDK's own retries are off.
   A call whose outcome nobody can know is recorded as *unknown* and may cost one more.
2. The limits are never exceeded. Money is integer micro-dollars; an upper bound is reserved before
   each call under one lock (`ledger`), windows slide exactly over the reservations, and nothing is
   refunded on a guess.
3. No accepted event is lost, and no picture whose bytes were received is bought again. The tables
   are the only state; every loop may be killed at any instruction and run again.

Where to read on, in the order in which data flows: `agents/intake.py`, `events.py`,
`preparation.py`, `batches.py`, `intake.py`, `hits.py`; `agents/generate.py`, `generation.py`,
`claims.py`, `ledger.py`, `settlement.py`, `completion.py`; `outbox.py`, `relay.py`,
`agents/announce.py`; and for HTTP `api/generate.py`, `orders.py`, `admission.py`, `waiting.py`,
`attendance.py`. Pure decisions are in `rules/`, the outside in `adapters/`, and `wiring.py` puts
it all together.
"""
