"""Local stand-ins for everything outside: OpenAI, Cloudinary, Kafka's broker and PostgreSQL.

`sandbox.server` speaks the two HTTP protocols, `sandbox.broker` and `sandbox.database` start a
broker and a database. The pipeline has no code for any of it: only its addresses differ.
"""
