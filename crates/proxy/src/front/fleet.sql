-- PostgreSQL has no idea how many rows these views have, and would join them by going through all for each. A subquery that is
-- not the condition itself is not made into a join, but hashed.
WITH held AS MATERIALIZED (
    SELECT pid, objid::pg_catalog.int8 >> 30 AS kind, objid::pg_catalog.int8 & 1073741823 AS number
    FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND classid::pg_catalog.int8 = {class} AND objsubid = 1 AND granted AND pid IS NOT NULL
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
), backends AS MATERIALIZED (
    SELECT pid, application_name, pg_catalog.date_part('epoch', backend_start)::pg_catalog.int8 AS since
    FROM pg_catalog.pg_stat_activity
    WHERE datid IS NOT NULL AND usesysid IS NOT NULL AND (backend_type IS NULL OR backend_type = 'client backend')
)
-- The locks are read first, in whole. Backends of an instance that dies meanwhile then count for its tokens, or as
-- nobody's: twice perhaps, but not never.
SELECT 'taken', pg_catalog.string_agg(number::text, ','), NULL, NULL, NULL FROM held WHERE kind = 0
UNION ALL
SELECT 'member', pid::text, (count(*) FILTER (WHERE kind = 0))::text,
    coalesce(max(number) FILTER (WHERE kind = 1), 0)::text, (count(*) FILTER (WHERE kind = 2))::text
FROM held GROUP BY pid
UNION ALL
SELECT 'about', pid::text, application_name, since::text, NULL
FROM backends WHERE (pid IN (SELECT pid FROM held WHERE kind = 1)) IS TRUE
UNION ALL
SELECT 'limits', pg_catalog.current_setting('max_connections'),
    pg_catalog.current_setting('superuser_reserved_connections'),
    coalesce(pg_catalog.current_setting('reserved_connections', true), '0'),
    (SELECT count(*)::text FROM backends
        WHERE pid <> pg_catalog.pg_backend_pid() AND pid <> ALL ('{{ours}}'::pg_catalog.int8[]))
UNION ALL
SELECT 'now', pg_catalog.pg_backend_pid()::text,
    (SELECT count(*)::text FROM backends
        WHERE pid NOT IN (SELECT pid FROM held) AND pid NOT IN (SELECT number FROM held WHERE kind = 2)),
    (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::pg_catalog.int8)::text, NULL
