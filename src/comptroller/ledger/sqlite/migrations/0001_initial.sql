-- Budgets. One row for each scope and unit that has one; `since_ms` is when its period began.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    allocated INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    debt INTEGER NOT NULL,
    overdraft_limit INTEGER NOT NULL,
    is_over_limit INTEGER NOT NULL,
    frozen INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    caps TEXT,
    per TEXT,
    renews_ms INTEGER,
    renews_to INTEGER,
    zone TEXT,
    since_ms INTEGER NOT NULL,
    caps_below INTEGER,
    alerts TEXT,
    UNIQUE (scope, unit)
);

-- Accounts of periods that are over; what is reserved in one is settled there.
CREATE TABLE periods (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    allocated INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    debt INTEGER NOT NULL,
    overdraft_limit INTEGER NOT NULL,
    is_over_limit INTEGER NOT NULL,
    frozen INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    caps TEXT,
    per TEXT,
    renews_ms INTEGER,
    renews_to INTEGER,
    zone TEXT,
    since_ms INTEGER NOT NULL,
    caps_below INTEGER,
    alerts TEXT,
    PRIMARY KEY (scope, unit, since_ms)
) WITHOUT ROWID;

-- `held` has a bit for each scope of `path`, the outermost the lowest: those whose budgets hold the
-- estimate. What was answered when the reservation was made (`digest` to `balances`) and when it
-- ended (`end_...`) stands in its own row: two rows and an index entry less for each.
CREATE TABLE reservations (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    tenant TEXT,
    path TEXT NOT NULL,
    held INTEGER NOT NULL,
    unit TEXT NOT NULL,
    estimate INTEGER NOT NULL,
    policy TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    ends_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    charged INTEGER,
    finalized_ms INTEGER,
    settlement TEXT,
    since TEXT,
    digest BLOB,
    fingerprint BLOB,
    leased_ms INTEGER,
    caps TEXT,
    balances BLOB,
    end_digest BLOB,
    end_fingerprint BLOB,
    end_balances BLOB
);
CREATE INDEX active_reservations ON reservations (ends_ms) WHERE status = 'ACTIVE';

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    tenant TEXT,
    created_ms INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    request TEXT NOT NULL,
    path TEXT NOT NULL,
    held INTEGER NOT NULL,
    unit TEXT NOT NULL,
    since TEXT
);

-- What was answered to other requests: extensions, decisions, dry runs, events. `made_ms` is when,
-- since answers are forgotten after a while.
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    reservation INTEGER,
    digest BLOB,
    made_ms INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    made INTEGER NOT NULL,
    token TEXT NOT NULL,
    amount INTEGER NOT NULL,
    moment_ms INTEGER NOT NULL,
    reason TEXT,
    caps TEXT,
    balances BLOB NOT NULL
);
CREATE INDEX answers_of_reservations ON answers (reservation) WHERE reservation IS NOT NULL;

-- Leads from the digest of an idempotency key to the row that holds its answer.
CREATE TABLE keys (digest BLOB PRIMARY KEY, reservation INTEGER, answer INTEGER) WITHOUT ROWID;

-- The event log. Entries are never changed; those that requests make are forgotten in time, with
-- the reservations and events that they tell of.
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    scope TEXT NOT NULL,
    unit TEXT,
    amount INTEGER NOT NULL,
    debt INTEGER NOT NULL,
    since_ms INTEGER NOT NULL,
    about TEXT,
    who TEXT,
    request_id TEXT,
    trace_id TEXT,
    details TEXT
);
CREATE INDEX alerts_of_log ON log (id) WHERE kind = 'alert';
-- What operators look for is found without reading through the requests between.
CREATE INDEX acts_of_log ON log (id)
WHERE kind NOT IN ('reserve', 'extend', 'commit', 'release', 'record');
CREATE TRIGGER log_is_never_changed BEFORE UPDATE ON log
BEGIN SELECT raise(ABORT, 'the event log is append-only'); END;
CREATE TRIGGER log_is_never_shortened BEFORE DELETE ON log
WHEN old.kind NOT IN ('reserve', 'extend', 'commit', 'release', 'record', 'denied', 'debt')
BEGIN SELECT raise(ABORT, 'the event log is append-only'); END;

CREATE TABLE denials (
    quarter_ms INTEGER NOT NULL,
    path TEXT NOT NULL,
    unit TEXT NOT NULL,
    code TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    run TEXT NOT NULL,
    count INTEGER NOT NULL,
    requested INTEGER NOT NULL,
    PRIMARY KEY (quarter_ms, path, unit, code, kind, name, run)
) WITHOUT ROWID;

-- The sums of calls that agree in the first five columns, added up as the calls are settled: a
-- report reads these, and they outlive the reservations. `estimated` is the part of `charged` that
-- nobody measured.
CREATE TABLE usage (
    quarter_ms INTEGER NOT NULL,
    path TEXT NOT NULL,
    unit TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    calls INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    abandoned INTEGER NOT NULL,
    tokens_input INTEGER NOT NULL,
    tokens_output INTEGER NOT NULL,
    PRIMARY KEY (quarter_ms, path, unit, kind, name)
) WITHOUT ROWID;

-- The charges and debts of reservations, events and log entries that are no longer kept.
CREATE TABLE archived (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    debt INTEGER NOT NULL,
    PRIMARY KEY (scope, unit, since_ms)
) WITHOUT ROWID;

-- How often something has happened, and how much was charged, since the file was made: monitoring
-- reads these few rows, however many calls they are of.
CREATE TABLE totals (
    what TEXT NOT NULL,
    unit TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (what, unit)
) WITHOUT ROWID;

-- Digests of API keys, never the keys. Few rows, looked up by id at every request of a server.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    note TEXT NOT NULL
) WITHOUT ROWID;

-- Where alerts are sent; `told` is the last entry of the log that was delivered there.
CREATE TABLE webhooks (
    url TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    told INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    problem TEXT
);

-- What every process that opens the file keeps to.
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
