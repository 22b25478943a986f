-- Who made an invitation: it is void once he could not make it any more. NULL: somebody at the
-- broker's local socket, or it is older than this.
ALTER TABLE invitations ADD COLUMN creator_id TEXT;
