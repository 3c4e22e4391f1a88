"""The triggers that write the history of the tables that matter, and nothing else."""

HISTORY = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.history (
    step bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    relation text NOT NULL,
    content jsonb NOT NULL
);
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.history (relation, content) VALUES (TG_TABLE_NAME, to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON imagepipe.reservations
    FOR EACH ROW EXECUTE FUNCTION chaos.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OF state ON imagepipe.attempts
    FOR EACH ROW EXECUTE FUNCTION chaos.note();
CREATE TRIGGER note AFTER INSERT OR UPDATE OF state ON imagepipe.jobs
    FOR EACH ROW EXECUTE FUNCTION chaos.note();
"""
"""Every state of every reservation, attempt and job, written down in the transaction that made it.
Steps of reservations are in the order of their commits: the ledger is locked."""
