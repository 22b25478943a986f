-- What decides whether a device is in the mesh, besides what 0004 has: how many people an account may
-- have, devices that never expire, join keys that approve, and whose the devices of a key are.

ALTER TABLE accounts ADD COLUMN max_users BIGINT;

ALTER TABLE devices ADD COLUMN never_expires BOOLEAN NOT NULL DEFAULT FALSE;

ALTER TABLE join_keys ADD COLUMN owner TEXT;
ALTER TABLE join_keys ADD COLUMN approves BOOLEAN NOT NULL DEFAULT FALSE;
