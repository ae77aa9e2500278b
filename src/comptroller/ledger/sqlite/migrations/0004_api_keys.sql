-- Digests of keys, never keys. Few rows, looked up by id at every request of a server.
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER,
    note TEXT NOT NULL
) WITHOUT ROWID;
