-- For docker-compose.yaml, after the image has made the account, and schema.sql the table. The image lets its account do
-- everything with its database; this leaves what a server needs, what `idalloc tag add` and `delete` need, and the look
-- whether the database is a replica.
REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'idalloc'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON id_alloc_db.segments TO 'idalloc'@'%';
GRANT SLAVE MONITOR ON *.* TO 'idalloc'@'%';
