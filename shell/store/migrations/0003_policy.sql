-- Who a device belongs to (a user's id), and an account's rules. Without a row, or without a text:
-- the text that every account begins with.

ALTER TABLE devices ADD COLUMN owner TEXT;

CREATE TABLE policies (
    account_id TEXT   NOT NULL PRIMARY KEY REFERENCES accounts (id) ON DELETE CASCADE,
    version    BIGINT NOT NULL,
    text       TEXT
);
