DROP INDEX procs_system_proc_id;
