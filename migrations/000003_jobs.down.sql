ALTER TABLE system_procs DROP COLUMN inline;
DROP TABLE namespace;
