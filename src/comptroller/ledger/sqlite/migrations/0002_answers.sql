-- What was answered when a reservation was made and when it ended stands in its own row: two rows
-- and an index entry less for each. `answers` keeps the rest, each with the time it was made, since
-- answers are forgotten after a while; of older ones that is not known, so theirs begins now.

ALTER TABLE reservations ADD COLUMN digest BLOB;
ALTER TABLE reservations ADD COLUMN fingerprint BLOB;
ALTER TABLE reservations ADD COLUMN leased_ms INTEGER;
ALTER TABLE reservations ADD COLUMN caps TEXT;
ALTER TABLE reservations ADD COLUMN balances BLOB;
ALTER TABLE reservations ADD COLUMN end_digest BLOB;
ALTER TABLE reservations ADD COLUMN end_fingerprint BLOB;
ALTER TABLE reservations ADD COLUMN end_balances BLOB;
ALTER TABLE answers ADD COLUMN made_ms INTEGER NOT NULL DEFAULT 0;

ALTER TABLE keys RENAME TO old_keys;
CREATE TABLE keys (digest BLOB PRIMARY KEY, reservation INTEGER, answer INTEGER) WITHOUT ROWID;

UPDATE answers SET made_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000;
UPDATE answers SET digest = old_keys.digest FROM old_keys WHERE old_keys.answer = answers.id;

UPDATE reservations
SET digest = answers.digest, fingerprint = answers.fingerprint, leased_ms = answers.moment_ms,
    caps = answers.caps, balances = answers.balances
FROM answers
WHERE answers.made = reservations.id AND answers.token = reservations.token;
UPDATE reservations
SET end_digest = answers.digest, end_fingerprint = answers.fingerprint,
    end_balances = answers.balances
FROM answers
WHERE answers.reservation = reservations.id AND answers.moment_ms = 0;
DELETE FROM answers WHERE reservation IS NOT NULL AND moment_ms = 0;
DELETE FROM answers
WHERE (made, token) IN (SELECT id, token FROM reservations WHERE digest IS NOT NULL);

INSERT INTO keys (digest, reservation)
SELECT digest, id FROM reservations WHERE digest IS NOT NULL;
INSERT INTO keys (digest, answer)
SELECT digest, id FROM answers WHERE reservation IS NULL AND digest IS NOT NULL;
DROP TABLE old_keys;
