-- Portable between SQLite and PostgreSQL: TEXT, BIGINT and BOOLEAN only.
-- Ids are 16 hexadecimal digits, keys base64, hashes 64 hexadecimal digits, times seconds since the
-- Unix epoch, addresses and ranges as text.

CREATE TABLE accounts (
    id          TEXT    NOT NULL PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    ipv4_range  TEXT    NOT NULL,
    ipv6_range  TEXT    NOT NULL UNIQUE,
    next_host   BIGINT  NOT NULL,
    created     BIGINT  NOT NULL,
    lease_epoch BIGINT  NOT NULL DEFAULT 0
);

CREATE TABLE join_keys (
    account_id  TEXT    NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id          TEXT    NOT NULL,
    secret_hash TEXT    NOT NULL UNIQUE,
    reusable    BOOLEAN NOT NULL,
    ephemeral   BOOLEAN NOT NULL,
    created     BIGINT  NOT NULL,
    expires     BIGINT,
    last_used   BIGINT,
    uses        BIGINT  NOT NULL,
    PRIMARY KEY (account_id, id)
);

CREATE TABLE join_key_tags (
    account_id  TEXT    NOT NULL,
    join_key_id TEXT    NOT NULL,
    tag         TEXT    NOT NULL,
    PRIMARY KEY (account_id, join_key_id, tag),
    FOREIGN KEY (account_id, join_key_id) REFERENCES join_keys (account_id, id) ON DELETE CASCADE
);

-- joined_by names a join key that may have been deleted since.
CREATE TABLE devices (
    account_id      TEXT    NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    id              TEXT    NOT NULL,
    public_key      TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    ipv4            TEXT    NOT NULL,
    ipv6            TEXT    NOT NULL,
    token_hash      TEXT    UNIQUE,
    joined_by       TEXT,
    ephemeral       BOOLEAN NOT NULL,
    static_endpoint TEXT,
    os              TEXT    NOT NULL,
    software        TEXT    NOT NULL,
    created         BIGINT  NOT NULL,
    last_seen       BIGINT,
    PRIMARY KEY (account_id, id),
    UNIQUE (account_id, public_key),
    UNIQUE (account_id, name),
    UNIQUE (account_id, ipv4),
    UNIQUE (account_id, ipv6)
);

CREATE TABLE device_tags (
    account_id TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    tag        TEXT NOT NULL,
    PRIMARY KEY (account_id, device_id, tag),
    FOREIGN KEY (account_id, device_id) REFERENCES devices (account_id, id) ON DELETE CASCADE
);

CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
