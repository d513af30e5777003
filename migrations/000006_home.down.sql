ALTER TABLE namespace DROP COLUMN oldest, DROP COLUMN home, DROP COLUMN restores;
