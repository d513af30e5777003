DROP VIEW logs_jsonb;
DROP FUNCTION body_jsonb(bytea);
DROP FUNCTION seq_at(bigint, bigint, bigint, bigint);
DROP TABLE gc_runs, lanes, idempotency_keys, live_streams, ack_answers, procs, system_procs, dropped_topics, logs, topics;
DROP FUNCTION now_ms();
