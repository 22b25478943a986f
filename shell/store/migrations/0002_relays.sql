-- Relays: an account's, or (without one) the operator's, offered to all.
-- kind: device (device_id), server (token_hash), turn (url, username). The addresses are a JSON
-- object of lists; a device's are known otherwise.

CREATE TABLE relays (
    id              TEXT    NOT NULL PRIMARY KEY,
    account_id      TEXT    REFERENCES accounts (id) ON DELETE CASCADE,
    name            TEXT    NOT NULL,
    kind            TEXT    NOT NULL,
    device_id       TEXT,
    token_hash      TEXT    UNIQUE,
    url             TEXT,
    username        TEXT,
    secret          TEXT    NOT NULL,
    previous_secret TEXT,
    addresses       TEXT    NOT NULL,
    created         BIGINT  NOT NULL
);

-- The relays that an account has named, in order; one of them may be the operator's or the broker.
CREATE TABLE relay_list (
    account_id TEXT   NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    position   BIGINT NOT NULL,
    relay_id   TEXT   NOT NULL,
    preference BIGINT NOT NULL,
    PRIMARY KEY (account_id, position)
);

-- Devices that were removed while credentials of theirs could still be good. They outlive their
-- account: the operator's relays served it, too.
CREATE TABLE revocations (
    account_id TEXT   NOT NULL,
    device_id  TEXT   NOT NULL,
    until      BIGINT NOT NULL,
    PRIMARY KEY (account_id, device_id)
);
