-- Webhooks of accounts, and what was, or is to be, sent to them. Secrets are 64 hexadecimal digits:
-- messages are signed with them. events: a JSON list. Times of deliveries are milliseconds.

CREATE TABLE webhooks (
    account_id      TEXT   NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id              TEXT   NOT NULL,
    url             TEXT   NOT NULL,
    events          TEXT   NOT NULL,
    secret          TEXT   NOT NULL,
    previous_secret TEXT,
    previous_until  BIGINT,
    created         BIGINT NOT NULL,
    failing_since   BIGINT,
    off             TEXT,
    PRIMARY KEY (account_id, id)
);

-- due: when it is to be tried next; without one it has arrived, or was given up.
CREATE TABLE webhook_deliveries (
    account_id TEXT    NOT NULL,
    webhook_id TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    event      TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    created    BIGINT  NOT NULL,
    due        BIGINT,
    attempts   BIGINT  NOT NULL,
    tried      BIGINT,
    status     BIGINT,
    error      TEXT,
    arrived    BOOLEAN NOT NULL,
    PRIMARY KEY (account_id, webhook_id, id),
    FOREIGN KEY (account_id, webhook_id) REFERENCES webhooks (account_id, id) ON DELETE CASCADE
);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due);

-- Up to where an account's Activity was handed to its webhooks: in its own chain and the broker's.
CREATE TABLE webhook_cursors (
    account_id TEXT   NOT NULL PRIMARY KEY REFERENCES accounts (id) ON DELETE CASCADE,
    own        BIGINT NOT NULL,
    broker     BIGINT NOT NULL
);
