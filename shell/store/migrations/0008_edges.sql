-- Devices that are edges, or were, and what they open. kind: forward, virtual-device, gateway; item:
-- what is set, in JSON.

CREATE TABLE edges (
    account_id TEXT    NOT NULL,
    device_id  TEXT    NOT NULL,
    enabled    BOOLEAN NOT NULL,
    PRIMARY KEY (account_id, device_id),
    FOREIGN KEY (account_id, device_id) REFERENCES devices (account_id, id) ON DELETE CASCADE
);

CREATE TABLE edge_items (
    account_id TEXT   NOT NULL,
    device_id  TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    id         TEXT   NOT NULL,
    item       TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    PRIMARY KEY (account_id, device_id, kind, id),
    FOREIGN KEY (account_id, device_id) REFERENCES devices (account_id, id) ON DELETE CASCADE
);
