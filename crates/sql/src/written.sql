-- How often the catalogs that suspects.sql reads (pg_proc and the rest) have been written to, as far as PostgreSQL's statistics
-- tell: the number is another one after a change. No row where that cannot be known. See suspects.rs.
SELECT 'written'::pg_catalog.text, pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c)
    OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_tuples_updated(c)
    OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_tuples_deleted(c))::pg_catalog.text, ''::pg_catalog.text
FROM pg_catalog.unnest('{pg_catalog.pg_proc,pg_catalog.pg_rewrite,pg_catalog.pg_trigger,pg_catalog.pg_policy,
    pg_catalog.pg_attrdef,pg_catalog.pg_constraint,pg_catalog.pg_index,pg_catalog.pg_type,pg_catalog.pg_operator,
    pg_catalog.pg_cast,pg_catalog.pg_aggregate,pg_catalog.pg_amproc,pg_catalog.pg_range,pg_catalog.pg_event_trigger,
    pg_catalog.pg_foreign_table,pg_catalog.pg_foreign_data_wrapper,pg_catalog.pg_partitioned_table,
    pg_catalog.pg_statistic_ext}'::pg_catalog.regclass[]) c
-- A standby's catalogs are written to by recovery, which is not counted.
HAVING pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'on' AND NOT pg_catalog.pg_is_in_recovery()
