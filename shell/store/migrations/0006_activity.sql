-- For how many days an account keeps its Activity; NULL: for ever.

ALTER TABLE accounts ADD COLUMN activity_days BIGINT DEFAULT 365;
