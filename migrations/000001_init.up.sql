-- Runs with the namespace's schema as search_path.

-- The one clock of the service, in epoch ms. Tests replace it to move time.
CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$ SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- One narrow row a topic, locked by every commit to it. A row with head 0 is a reserved name: the topic is unknown until
-- its first commit.
CREATE TABLE topics (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text   NOT NULL UNIQUE,
    first      bigint NOT NULL DEFAULT 0, -- the first retained seq
    head       bigint NOT NULL DEFAULT 0, -- the next seq
    last_ts    bigint NOT NULL DEFAULT 0, -- the timestamp of log head-1
    removed    bigint NOT NULL DEFAULT 0, -- logs below it are gone from the table too; at most first
    created_at bigint NOT NULL DEFAULT 0  -- of the first commit
) WITH (fillfactor = 50);

-- The logs. ts never decreases along seq, so a timestamp is found by binary search and needs no index. The body is
-- compacted JSON kept byte for byte, which neither json nor jsonb can do.
CREATE TABLE logs (
    topic_id bigint NOT NULL,
    seq      bigint NOT NULL,
    ts       bigint NOT NULL,
    body     bytea  NOT NULL,
    PRIMARY KEY (topic_id, seq)
);

-- Topics whose name was unlinked and whose logs are still to be removed.
CREATE TABLE dropped_topics (
    id bigint PRIMARY KEY
);

CREATE TABLE system_procs (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text   NOT NULL UNIQUE,
    spec       text   NOT NULL, -- the definition as JSON
    created_at bigint NOT NULL
);

-- One row a proc. Nothing that changes with a claim or an ack is indexed, so its updates stay in the page.
CREATE TABLE procs (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name              text   NOT NULL UNIQUE,
    topic_id          bigint NOT NULL,
    system_proc_id    bigint NOT NULL DEFAULT 0, -- 0: none
    kind              text   NOT NULL,
    start_offset      text   NOT NULL,
    created_at        bigint NOT NULL,
    status            text   NOT NULL,
    count             int    NOT NULL,
    max_reclaims      int    NOT NULL,
    reclaim_timeout   bigint NOT NULL,
    on_max_reclaims   text   NOT NULL,
    position          bigint NOT NULL, -- the seq of the first log not acked, or where the next one will be
    last_claimed      text   NOT NULL DEFAULT '',
    previous_claimed  text   NOT NULL DEFAULT '',
    last_acked        text   NOT NULL DEFAULT '',
    last_claimed_at   bigint,
    last_acked_at     bigint,
    reclaims          int    NOT NULL DEFAULT 0,
    claim_token       text   NOT NULL DEFAULT '', -- '': no live claim
    claim_expires_at  bigint,
    claim_count       int    NOT NULL DEFAULT 0,
    retry             text   NOT NULL DEFAULT '', -- the range to be handed out again
    ack_token         text   NOT NULL DEFAULT '',
    ack_next          text,                       -- what the last ack claimed: NULL not asked, '' nothing, else the token
    seeks             int    NOT NULL DEFAULT 0,
    next_attempt_at   bigint,
    last_error        text   NOT NULL DEFAULT '',
    ttl               bigint NOT NULL DEFAULT -1, -- of a liveProc
    expires_at        bigint                      -- of a liveProc; NULL: never
) WITH (fillfactor = 50);
CREATE INDEX procs_topic_id ON procs (topic_id);

-- What the last ackCommit of a proc answered, for its repeats.
CREATE TABLE ack_answers (
    proc_id bigint PRIMARY KEY,
    token   text  NOT NULL,
    answer  bytea NOT NULL
) WITH (fillfactor = 70);

-- The stream of a liveProc.
CREATE TABLE live_streams (
    proc_id     bigint  PRIMARY KEY,
    connections bigint  NOT NULL DEFAULT 0,  -- the last connection number given
    connection  bigint  NOT NULL DEFAULT 0,  -- the number of the latest stream
    instance    text    NOT NULL DEFAULT '', -- names that stream; '': closed
    open_until  bigint  NOT NULL DEFAULT 0,  -- its lease
    cancelled   boolean NOT NULL DEFAULT false
);

CREATE TABLE idempotency_keys (
    api_key    text   NOT NULL,
    key        text   NOT NULL,
    hash       bytea  NOT NULL,
    ids        bytea  NOT NULL DEFAULT '', -- of the logs committed; '' while the commit is on its way
    created_at bigint NOT NULL,
    PRIMARY KEY (api_key, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

-- One row a server and lane, with the last batch that it committed: tells what became of a COMMIT that was not answered.
CREATE TABLE lanes (
    server     uuid   NOT NULL,
    lane       int    NOT NULL,
    batch      uuid   NOT NULL,
    written_at bigint NOT NULL,
    PRIMARY KEY (server, lane)
) WITH (fillfactor = 50);

CREATE TABLE gc_runs (
    id          int    PRIMARY KEY DEFAULT 1 CHECK (id = 1), -- the last run alone
    finished_at bigint NOT NULL,
    topics      text   NOT NULL
);

-- The first seq in [first, head) whose log has a timestamp of at least at_or_after; head when there is none.
CREATE FUNCTION seq_at(topic bigint, first bigint, head bigint, at_or_after bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    lo bigint := first;
    hi bigint := head;
    mid bigint;
    at bigint;
BEGIN
    WHILE lo < hi LOOP
        mid := lo + (hi - lo) / 2;
        SELECT l.ts INTO at FROM logs l WHERE l.topic_id = topic AND l.seq = mid;
        IF at < at_or_after THEN
            lo := mid + 1;
        ELSE
            hi := mid;
        END IF;
    END LOOP;
    RETURN lo;
END $$;

-- The body as jsonb, NULL where PostgreSQL cannot hold it (\u0000, lone surrogates, numbers out of range, ...).
CREATE FUNCTION body_jsonb(body bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN convert_from(body, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

-- For ad-hoc SQL.
CREATE VIEW logs_jsonb AS
SELECT t.name AS topic, l.ts || '-' || l.seq AS id, l.seq, to_timestamp(l.ts / 1000.0) AS committed_at,
       body_jsonb(l.body) AS body
FROM topics t
JOIN logs l ON l.topic_id = t.id AND l.seq >= t.first;
