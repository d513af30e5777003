-- Finds the procs of systemProcs among those of users and streams. It may take a while, and is alone, so that it holds
-- nothing meanwhile that claims need.
CREATE INDEX procs_system_proc_id ON procs (system_proc_id) WHERE system_proc_id > 0;
