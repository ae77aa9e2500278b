-- Budgets, reservations, events, and what was answered under which idempotency key.

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
    caps TEXT,
    per TEXT,
    renews_ms INTEGER,
    renews_to INTEGER,
    UNIQUE (scope, unit)
);
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
    settlement TEXT
);
CREATE INDEX active_reservations ON reservations (ends_ms) WHERE status = 'ACTIVE';
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    tenant TEXT,
    created_ms INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    request TEXT NOT NULL
);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    reservation INTEGER,
    digest BLOB,
    fingerprint BLOB NOT NULL,
    made INTEGER NOT NULL,
    token TEXT NOT NULL,
    amount INTEGER NOT NULL,
    moment_ms INTEGER NOT NULL,
    reason TEXT,
    caps TEXT,
    balances TEXT NOT NULL
);
CREATE INDEX answers_of_reservations ON answers (reservation) WHERE reservation IS NOT NULL;
CREATE TABLE keys (digest BLOB PRIMARY KEY, answer INTEGER NOT NULL) WITHOUT ROWID;
