-- Names the namespace among all there are, in the ids of webhooks.
CREATE TABLE namespace (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id  uuid    NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO namespace DEFAULT VALUES;

-- Whether the processor is an inline function, which not every server runs. The text is searched, as it is written by all
-- versions: neither json nor jsonb takes every function's text.
ALTER TABLE system_procs ADD COLUMN inline boolean
    GENERATED ALWAYS AS (spec ~ '"processor":\{("timeout":[0-9]+,)?"inline":') STORED;
CREATE INDEX system_procs_inline ON system_procs (id) WHERE inline;
