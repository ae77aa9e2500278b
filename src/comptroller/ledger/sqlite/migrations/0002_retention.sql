-- What a row of `answers` needs so that it can be forgotten, with its key, when its time has come:
-- when it was made, and its digest also where `keys` leads to it. Of older ones it is not known
-- when they were made: their time begins now.

ALTER TABLE answers ADD COLUMN made_ms INTEGER NOT NULL DEFAULT 0;
UPDATE answers SET made_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000;
UPDATE answers SET digest = keys.digest FROM keys WHERE keys.answer = answers.id;
