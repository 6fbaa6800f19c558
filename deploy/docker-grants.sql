-- For docker-compose.yaml, after the image has created the account and schema.sql the table. The image gives its account
-- all privileges on its database. This leaves those of a server, of `idalloc tag add` and `delete`, and the one to see
-- whether the database is a replica.
REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'idalloc'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON id_alloc_db.segments TO 'idalloc'@'%';
GRANT SLAVE MONITOR ON *.* TO 'idalloc'@'%';
