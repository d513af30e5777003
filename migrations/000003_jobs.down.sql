DROP INDEX procs_system_proc_id;
ALTER TABLE system_procs DROP COLUMN inline;
DROP TABLE namespace;
