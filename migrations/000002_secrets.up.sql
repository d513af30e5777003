-- The secrets that sign the calls of a systemProc's webhook, as JSON, newest first: [{"secret": …, "expiresAt": …}, …].
-- The default gives each row that is there already one of its own (32 bytes of two random UUIDs), and those that a server
-- of the version before still makes.
ALTER TABLE system_procs ADD COLUMN secrets text NOT NULL DEFAULT '[{"secret":"whsec_'
    || encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64') || '"}]';
