-- Servers made for version 5 may go on.
-- What a server has to know of the namespace before it works with it.
ALTER TABLE namespace
    ADD COLUMN oldest   int    NOT NULL DEFAULT 5, -- the least version that a server is made for and can still work with this one
    ADD COLUMN home     text   NOT NULL DEFAULT '', -- the place that it lives at, which a copy of it does not
    ADD COLUMN restores bigint NOT NULL DEFAULT 0; -- how often it was found at another place
