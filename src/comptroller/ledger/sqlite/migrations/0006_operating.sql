-- What makes rows with every request is forgotten in time, whatever table it stands in: denials that
-- the log tells of, and debts, which are added up first, as charges are.

ALTER TABLE archived ADD COLUMN debt INTEGER NOT NULL DEFAULT 0;
DROP TRIGGER log_is_never_shortened;
CREATE TRIGGER log_is_never_shortened BEFORE DELETE ON log
WHEN old.kind NOT IN ('reserve', 'extend', 'commit', 'release', 'record', 'denied', 'debt')
BEGIN SELECT raise(ABORT, 'the event log is append-only'); END;

-- What operators look for is found without reading through the requests between.
CREATE INDEX acts_of_log ON log (id)
WHERE kind NOT IN ('reserve', 'extend', 'commit', 'release', 'record');

-- How often something has happened, and how much was charged, since counting began: monitoring reads
-- these few rows, however many calls they are of.
CREATE TABLE totals (
    what TEXT NOT NULL,
    unit TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (what, unit)
) WITHOUT ROWID;

-- What every process that opens the file keeps to.
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
