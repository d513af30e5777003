-- Where the batch's logs went, when PostgreSQL gave their ids: the ids of its topics, the seqs of its first log in each,
-- and their timestamps, one after the other.
ALTER TABLE lanes ADD COLUMN places bigint[];
