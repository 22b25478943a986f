-- Whether the account wants the device to be an edge.
ALTER TABLE edges ADD COLUMN asked BOOLEAN NOT NULL DEFAULT FALSE;
