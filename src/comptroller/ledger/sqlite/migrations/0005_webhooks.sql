-- Where alerts are sent, and up to which entry of the log each place has been told.

CREATE TABLE webhooks (
    url TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    told INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    problem TEXT
);
CREATE INDEX alerts_of_log ON log (id) WHERE kind = 'alert';
