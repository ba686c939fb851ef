-- Everything of a database that calls functions, with what it calls: kind, name, source. See suspects.rs.
-- Objects of PostgreSQL's own have lower oids than 16384 (FirstNormalObjectId). Every function, operator and type is named
-- with its schema, as search_path is the client's. Columns that PostgreSQL 13 lacks are taken from the row as JSON.
WITH function AS (
    SELECT p.oid, p.proname, p.prosrc, p.proargdefaults, l.lanname, e.extname,
        CASE WHEN l.lanname OPERATOR(pg_catalog.=) 'sql'
            THEN pg_catalog.to_jsonb(p) OPERATOR(pg_catalog.->>) 'prosqlbody' END AS body
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
    LEFT JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
        AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
    LEFT JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
    WHERE p.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid AND p.prokind OPERATOR(pg_catalog.<>) 'a'
),
-- What functions in the language internal are called in pg_catalog.
builtin AS (
    SELECT p.prosrc, pg_catalog.string_agg(pg_catalog.quote_ident(p.proname::pg_catalog.text), ' ') AS names
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
    WHERE p.oid OPERATOR(pg_catalog.<) '16384'::pg_catalog.oid AND l.lanname OPERATOR(pg_catalog.=) 'internal'
    GROUP BY p.prosrc
),
-- Expressions and queries, as PostgreSQL stores them.
tree AS (
    SELECT 'refers' AS kind, f.proname AS name, f.proargdefaults::pg_catalog.text AS tree FROM function f
    UNION ALL SELECT 'refers', f.proname, f.body FROM function f
    UNION ALL
    SELECT 'refers', c.relname, t.tree
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
    CROSS JOIN LATERAL (VALUES (r.ev_action::pg_catalog.text), (r.ev_qual::pg_catalog.text)) t (tree)
    WHERE r.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    UNION ALL
    SELECT 'refers', c.relname, t.tree
    FROM pg_catalog.pg_policy p
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
    CROSS JOIN LATERAL (VALUES (p.polqual::pg_catalog.text), (p.polwithcheck::pg_catalog.text)) t (tree)
    UNION ALL
    SELECT 'table', c.relname, t.tree
    FROM (
        SELECT d.adrelid, d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d
        UNION ALL SELECT k.conrelid, k.conbin::pg_catalog.text FROM pg_catalog.pg_constraint k
        UNION ALL SELECT i.indrelid, i.indexprs::pg_catalog.text FROM pg_catalog.pg_index i
        UNION ALL SELECT i.indrelid, i.indpred::pg_catalog.text FROM pg_catalog.pg_index i
        UNION ALL SELECT p.partrelid, p.partexprs::pg_catalog.text FROM pg_catalog.pg_partitioned_table p
        UNION ALL SELECT s.stxrelid, pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'stxexprs'
            FROM pg_catalog.pg_statistic_ext s
    ) t (relation, tree)
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relation
    WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    UNION ALL
    SELECT 'trigger', c.relname, t.tgqual::pg_catalog.text
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
    UNION ALL
    SELECT 'always', t.typname, t.typdefaultbin::pg_catalog.text FROM pg_catalog.pg_type t
    UNION ALL
    SELECT 'always', t.typname, k.conbin::pg_catalog.text
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) k.contypid
    WHERE t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
),
-- Functions that are called otherwise than by an expression.
call AS (
    SELECT 'refers' AS kind, p.proname AS name, f.id
    FROM pg_catalog.pg_aggregate a
    JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) a.aggfnoid::pg_catalog.oid
    CROSS JOIN LATERAL (VALUES (a.aggtransfn::pg_catalog.oid), (a.aggfinalfn), (a.aggcombinefn), (a.aggserialfn),
        (a.aggdeserialfn), (a.aggmtransfn), (a.aggminvtransfn), (a.aggmfinalfn)) f (id)
    WHERE p.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    UNION ALL
    SELECT 'refers', c.relname, w.fdwhandler
    FROM pg_catalog.pg_foreign_table t
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.ftrelid
    JOIN pg_catalog.pg_foreign_server s ON s.oid OPERATOR(pg_catalog.=) t.ftserver
    JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw
    UNION ALL
    SELECT 'trigger', c.relname, t.tgfoid
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'always', e.evtname, e.evtfoid
    FROM pg_catalog.pg_event_trigger e WHERE e.evtevent OPERATOR(pg_catalog.<>) 'login'
    UNION ALL
    SELECT 'always', o.oprname, f.id
    FROM pg_catalog.pg_operator o
    CROSS JOIN LATERAL (VALUES (o.oprcode::pg_catalog.oid), (o.oprrest), (o.oprjoin)) f (id)
    WHERE o.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    UNION ALL
    SELECT 'always', 'cast', c.castfunc
    FROM pg_catalog.pg_cast c WHERE c.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
    UNION ALL
    SELECT 'always', t.typname, f.id
    FROM pg_catalog.pg_type t
    CROSS JOIN LATERAL (VALUES (t.typinput::pg_catalog.oid), (t.typoutput), (t.typreceive), (t.typsend), (t.typmodin),
        (t.typmodout), (t.typanalyze)) f (id)
    WHERE t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid AND t.typtype OPERATOR(pg_catalog.=) 'b'
        AND t.typinput::pg_catalog.oid OPERATOR(pg_catalog.<>) 'pg_catalog.array_in'::pg_catalog.regproc::pg_catalog.oid
    UNION ALL
    SELECT 'always', 'range', f.id
    FROM pg_catalog.pg_range r
    CROSS JOIN LATERAL (VALUES (r.rngcanonical::pg_catalog.oid), (r.rngsubdiff)) f (id)
    UNION ALL
    SELECT 'always', 'operator class', a.amproc::pg_catalog.oid
    FROM pg_catalog.pg_amproc a WHERE a.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
)
SELECT CASE WHEN f.lanname OPERATOR(pg_catalog.=) ANY ('{sql,plpgsql}'::pg_catalog.name[]) THEN f.lanname::pg_catalog.text
        WHEN b.names IS NOT NULL THEN 'refers' ELSE 'unknown' END AS kind,
    f.proname::pg_catalog.text AS name,
    CASE WHEN f.lanname OPERATOR(pg_catalog.=) ANY ('{sql,plpgsql}'::pg_catalog.name[]) THEN f.prosrc
        ELSE COALESCE(b.names, '') END AS source
FROM function f
LEFT JOIN builtin b ON b.prosrc OPERATOR(pg_catalog.=) f.prosrc AND f.lanname OPERATOR(pg_catalog.=) 'internal'
-- Extensions whose functions in C leave the session alone, but for a few that the lexer knows by name.
WHERE NOT (f.lanname OPERATOR(pg_catalog.=) 'c' AND f.extname IS NOT NULL AND f.extname OPERATOR(pg_catalog.=) ANY (
    '{address_standardizer,adminpack,amcheck,autoinc,bloom,btree_gin,btree_gist,citext,cube,dict_int,dict_xsyn,
    earthdistance,file_fdw,fuzzystrmatch,h3,hstore,insert_username,intagg,intarray,ip4r,isn,lo,ltree,moddatetime,
    old_snapshot,pageinspect,pg_buffercache,pg_cron,pg_freespacemap,pg_logicalinspect,pg_prewarm,pg_stat_statements,
    pg_surgery,pg_trgm,pg_visibility,pg_walinspect,pgaudit,pgcrypto,pgrowlocks,pgstattuple,postgis,postgis_raster,
    postgres_fdw,prefix,refint,seg,semver,sslinfo,tablefunc,tcn,tsm_system_rows,tsm_system_time,unaccent,uuid-ossp,vector,
    xml2}'::pg_catalog.name[]))
UNION ALL
SELECT t.kind, t.name::pg_catalog.text,
    pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(COALESCE(p.proname, c.relname)::pg_catalog.text), ' ')
FROM tree t
CROSS JOIN LATERAL pg_catalog.regexp_matches(
    t.tree, ':(funcid|opfuncid|aggfnoid|winfnoid|tsmhandler|relid) ([0-9]+)', 'g') m (found)
LEFT JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) m.found[2]::pg_catalog.oid
    AND m.found[1] OPERATOR(pg_catalog.<>) 'relid'
LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) m.found[2]::pg_catalog.oid
    AND m.found[1] OPERATOR(pg_catalog.=) 'relid'
GROUP BY t.kind, t.name
HAVING pg_catalog.count(COALESCE(p.proname, c.relname)) OPERATOR(pg_catalog.>) 0
UNION ALL
-- Bodies and rules that write: UPDATE, INSERT, DELETE, MERGE.
SELECT t.kind, t.name::pg_catalog.text, 'INSERT'
FROM tree t WHERE t.tree OPERATOR(pg_catalog.~) ':commandType [2345]'
UNION ALL
-- What an extension calls in C behind an operator or a type is trusted.
SELECT a.kind, a.name::pg_catalog.text, pg_catalog.quote_ident(p.proname::pg_catalog.text)
FROM call a
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) a.id
LEFT JOIN function f ON f.oid OPERATOR(pg_catalog.=) p.oid
WHERE NOT (a.kind OPERATOR(pg_catalog.=) 'always' AND f.oid IS NOT NULL
    AND f.lanname OPERATOR(pg_catalog.=) 'c' AND f.extname IS NOT NULL)
