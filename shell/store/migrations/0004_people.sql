-- People, their ways in, Activity, and what is set for an account.
-- Sets (recovery codes, identities, scopes) are JSON lists in TEXT. accounts are named without a
-- foreign key: people are broker-wide, and outlive an account under a lease of their own.

ALTER TABLE accounts ADD COLUMN suspended BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE accounts ADD COLUMN max_devices BIGINT;
ALTER TABLE accounts ADD COLUMN device_approval BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE accounts ADD COLUMN key_expiry_days BIGINT;

ALTER TABLE devices ADD COLUMN approved BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE devices ADD COLUMN expires BIGINT;

-- Who owns what no account has: the row 'people'.
CREATE TABLE leases (
    name  TEXT   NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
);

INSERT INTO leases (name, epoch) VALUES ('people', 0);

-- totp_secret: 40 hexadecimal digits. recovery_codes: hashes.
CREATE TABLE users (
    id             TEXT    NOT NULL PRIMARY KEY,
    email          TEXT    NOT NULL UNIQUE,
    name           TEXT    NOT NULL,
    password       TEXT,
    totp_secret    TEXT,
    totp_last_step BIGINT,
    recovery_codes TEXT    NOT NULL,
    identities     TEXT    NOT NULL,
    operator       BOOLEAN NOT NULL,
    suspended      BOOLEAN NOT NULL,
    created        BIGINT  NOT NULL,
    last_seen      BIGINT
);

CREATE TABLE memberships (
    user_id    TEXT   NOT NULL REFERENCES users (id),
    account_id TEXT   NOT NULL,
    role       TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    PRIMARY KEY (user_id, account_id)
);

CREATE TABLE invitations (
    id          TEXT   NOT NULL PRIMARY KEY,
    secret_hash TEXT   NOT NULL UNIQUE,
    account_id  TEXT   NOT NULL,
    role        TEXT   NOT NULL,
    email       TEXT,
    created     BIGINT NOT NULL,
    expires     BIGINT NOT NULL
);

CREATE TABLE web_sessions (
    id          TEXT   NOT NULL PRIMARY KEY,
    secret_hash TEXT   NOT NULL UNIQUE,
    user_id     TEXT   NOT NULL REFERENCES users (id),
    method      TEXT   NOT NULL,
    user_agent  TEXT   NOT NULL,
    address     TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    last_used   BIGINT NOT NULL,
    expires     BIGINT NOT NULL
);

-- Without an account: a token of the broker.
CREATE TABLE api_tokens (
    id          TEXT   NOT NULL PRIMARY KEY,
    secret_hash TEXT   NOT NULL UNIQUE,
    name        TEXT   NOT NULL,
    account_id  TEXT,
    scopes      TEXT   NOT NULL,
    creator     TEXT   REFERENCES users (id),
    created     BIGINT NOT NULL,
    expires     BIGINT,
    last_used   BIGINT
);

-- Without a user: the link of the first start.
CREATE TABLE one_time_links (
    secret_hash   TEXT    NOT NULL PRIMARY KEY,
    user_id       TEXT    REFERENCES users (id),
    second_factor BOOLEAN NOT NULL,
    expires       BIGINT  NOT NULL
);

-- chain: 'broker' or an account's id. at: milliseconds since the Unix epoch. It outlives what it
-- speaks of, accounts included.
CREATE TABLE activity (
    chain        TEXT   NOT NULL,
    sequence     BIGINT NOT NULL,
    at           BIGINT NOT NULL,
    actor_kind   TEXT   NOT NULL,
    actor_id     TEXT   NOT NULL,
    actor_name   TEXT   NOT NULL,
    source       TEXT,
    account_id   TEXT,
    action       TEXT   NOT NULL,
    subject_kind TEXT   NOT NULL,
    subject_id   TEXT   NOT NULL,
    subject_name TEXT   NOT NULL,
    fields       TEXT   NOT NULL,
    previous     TEXT   NOT NULL,
    hash         TEXT   NOT NULL,
    PRIMARY KEY (chain, sequence)
);

CREATE INDEX activity_by_account ON activity (account_id, at);
CREATE INDEX activity_by_time ON activity (at);
