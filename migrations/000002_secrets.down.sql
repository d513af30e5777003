ALTER TABLE system_procs DROP COLUMN secrets;
