-- Periods, the event log, counted denials, and what an account that is older than its log starts
-- from: what its own reservations do not account for.

ALTER TABLE accounts ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN zone TEXT;
ALTER TABLE accounts ADD COLUMN caps_below INTEGER;
ALTER TABLE accounts ADD COLUMN alerts TEXT;
UPDATE accounts SET zone = 'UTC' WHERE per IS NOT NULL;

ALTER TABLE reservations ADD COLUMN since TEXT;

ALTER TABLE events ADD COLUMN path TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN unit TEXT NOT NULL DEFAULT '';
ALTER TABLE events ADD COLUMN since TEXT;
UPDATE events SET unit = json_extract(request, '$.actual.unit'),
    path = coalesce('tenant:' || lower(json_extract(request, '$.subject.tenant')), '');

-- Accounts of periods that are over; what is reserved in one is settled there.
CREATE TABLE periods (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
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
    zone TEXT,
    caps_below INTEGER,
    alerts TEXT,
    PRIMARY KEY (scope, unit, since_ms)
) WITHOUT ROWID;

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
CREATE TRIGGER log_is_never_changed BEFORE UPDATE ON log
BEGIN SELECT raise(ABORT, 'the event log is append-only'); END;
-- The ids of requests are forgotten in time, with the reservations that they made.
CREATE TRIGGER log_is_never_shortened BEFORE DELETE ON log
WHEN old.kind NOT IN ('reserve', 'extend', 'commit', 'release', 'record')
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

-- What calls came to that agree in all of this, added up as they are settled: a report reads these,
-- and outlives the reservations.
CREATE TABLE usage (
    quarter_ms INTEGER NOT NULL,
    path TEXT NOT NULL,
    unit TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    calls INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    abandoned INTEGER NOT NULL,
    tokens_input INTEGER NOT NULL,
    tokens_output INTEGER NOT NULL,
    PRIMARY KEY (quarter_ms, path, unit, kind, name)
) WITHOUT ROWID;
INSERT INTO usage
SELECT created_ms / 900000 * 900000 AS quarter_ms, path, unit,
    json_extract(request, '$.action.kind') AS kind, json_extract(request, '$.action.name') AS name,
    count(*), sum(charged), sum(charged * abandoned), sum(tokens_input), sum(tokens_output)
FROM (
    SELECT created_ms, path, unit, request, charged,
        json_extract(settlement, '$.metadata.abandoned') IS NOT NULL AS abandoned,
        coalesce(json_extract(settlement, '$.metrics.tokens_input'), 0) AS tokens_input,
        coalesce(json_extract(settlement, '$.metrics.tokens_output'), 0) AS tokens_output
    FROM reservations WHERE status = 'COMMITTED'
    UNION ALL
    SELECT created_ms, path, unit, request, charged,
        json_extract(request, '$.metadata.abandoned') IS NOT NULL,
        coalesce(json_extract(request, '$.metrics.tokens_input'), 0),
        coalesce(json_extract(request, '$.metrics.tokens_output'), 0)
    FROM events WHERE charged > 0
)
GROUP BY quarter_ms, path, unit, kind, name;

-- What reservations and events were charged that are no longer kept.
CREATE TABLE archived (
    scope TEXT NOT NULL,
    unit TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    PRIMARY KEY (scope, unit, since_ms)
) WITHOUT ROWID;

INSERT INTO log (at_ms, kind, scope, unit, amount, debt, since_ms, details)
SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000, 'opened', scope, unit, allocated, debt, 0,
    json_object('spent', spent - coalesce((
        SELECT sum(charged) FROM (
            SELECT path, held, unit, sum(charged) AS charged FROM reservations
            WHERE status = 'COMMITTED' GROUP BY path, held, unit
        ) AS settled
        WHERE settled.unit = accounts.unit
            AND substr(settled.path || '/', 1, length(accounts.scope) + 1) = accounts.scope || '/'
            AND settled.held >> (length(accounts.scope) - length(replace(accounts.scope, '/', '')))
                & 1
    ), 0))
FROM accounts;
