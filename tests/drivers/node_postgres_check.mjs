// node-postgres with its cursors and streams through the pooler. Usage: node_postgres_check.mjs URL. Prints one PASS line per check; the
// first failure ends it with a stack trace. PGSLUICE_NODE_MODULES says where the driver is installed.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

const require = createRequire(`${process.env.PGSLUICE_NODE_MODULES}/index.js`);
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const { from: copyFrom, to: copyTo } = require('pg-copy-streams');
const connectionString = process.argv[2];

async function connected(work, options = {}) {
  const client = new Client({ connectionString, ...options });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

const checks = {
  simple: () => connected(async (client) => {
    assert.deepEqual((await client.query('SELECT 1 AS one')).rows, [{ one: 1 }]);
    const several = await client.query('SELECT 1 AS a; SELECT 2 AS b');
    assert.deepEqual(several.map((result) => result.rows), [[{ a: 1 }], [{ b: 2 }]]);
    assert.deepEqual((await client.query('')).rows, []);
  }),

  parameterised: () => connected(async (client) => {
    for (let n = 0; n < 100; n++) {
      const { rows } = await client.query('SELECT $1::int AS n, $2::text AS t', [n, `t${n}`]);
      assert.deepEqual(rows, [{ n, t: `t${n}` }]);
    }
  }),

  'named prepared': () => connected(async (client) => {
    for (let n = 0; n < 100; n++) {
      const { rows } = await client.query({ name: 'by_id', text: 'SELECT $1::int * 3 AS n', values: [n] });
      assert.equal(rows[0].n, 3 * n);
    }
  }),

  errors: () => connected(async (client) => {
    await assert.rejects(client.query('SELEC 1'), { code: '42601' });
    await assert.rejects(client.query('SELECT $1::int / 0', [1]), { code: '22012' });
    await assert.rejects(client.query({ name: 'broken', text: 'SELECT * FROM no_such_table' }), { code: '42P01' });
    await client.query('BEGIN');
    await assert.rejects(client.query('SELECT 1/0'), { code: '22012' });
    await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
    await client.query('ROLLBACK');
    assert.equal((await client.query('SELECT 1 AS n')).rows[0].n, 1);
  }),

  transactions: () => connected(async (client) => {
    await client.query('DROP TABLE IF EXISTS node_item');
    await client.query('CREATE TABLE node_item (id int PRIMARY KEY)');
    await client.query('BEGIN');
    await client.query('INSERT INTO node_item VALUES ($1)', [1]);
    await client.query('ROLLBACK');
    await client.query('BEGIN');
    await client.query('INSERT INTO node_item VALUES ($1)', [2]);
    await client.query('COMMIT');
    assert.deepEqual((await client.query('SELECT id FROM node_item')).rows, [{ id: 2 }]);
  }),

  'queries queued without waiting': () => connected(async (client) => {
    const results = await Promise.all(Array.from({ length: 300 }, (_, n) => client.query('SELECT $1::int AS n', [n])));
    assert.deepEqual(results.map((result) => result.rows[0].n), Array.from({ length: 300 }, (_, n) => n));
  }),

  'one name of many clients, one text each': () => Promise.all(Array.from({ length: 8 }, (_, number) =>
    connected(async (client) => {
      for (let n = 0; n < 30; n++) {
        const query = { name: 'by_id', text: `SELECT $1::int + ${number} AS n`, values: [n] };
        assert.equal((await client.query(query)).rows[0].n, n + number);
      }
      await assert.rejects(client.query({ name: 'by_id', text: 'SELECT 1' }), /must be unique/);
    }))),

  cursors: () => connected(async (client) => {
    for (let round = 0; round < 10; round++) {
      const cursor = client.query(new Cursor('SELECT n FROM generate_series(1, $1::int) n', [1000]));
      const got = [];
      for (let rows = await cursor.read(70); rows.length > 0; rows = await cursor.read(70)) {
        got.push(...rows.map((row) => row.n));
      }
      assert.deepEqual(got, Array.from({ length: 1000 }, (_, n) => n + 1));
      const early = client.query(new Cursor('SELECT n FROM generate_series(1, 1000) n'));
      assert.equal((await early.read(5)).length, 5);
      const after = client.query('SELECT 7 AS n'); // waits for the close
      await early.close();
      assert.equal((await after).rows[0].n, 7);
      const failing = client.query(new Cursor('SELECT 10 / (50 - n) AS n FROM generate_series(1, 100) n'));
      assert.equal((await failing.read(40)).length, 40);
      await assert.rejects(failing.read(40), { code: '22012' });
      assert.equal((await client.query('SELECT 8 AS n')).rows[0].n, 8);
    }
  }),

  'two cursors in one transaction': () => connected(async (client) => {
    await client.query('BEGIN');
    const cursor = client.query(new Cursor('SELECT n FROM generate_series(1, 100) n'));
    assert.equal((await cursor.read(10)).length, 10);
    await cursor.close();
    const next = client.query(new Cursor('SELECT n FROM generate_series(1, 5) n'));
    assert.equal((await next.read(100)).length, 5);
    await next.close();
    await client.query('COMMIT');
  }),

  streams: () => connected(async (client) => {
    let count = 0;
    const options = { batchSize: 250, highWaterMark: 250 };
    for await (const row of client.query(new QueryStream('SELECT generate_series(1, 20000) AS n', [], options))) {
      assert.equal(row.n, ++count);
    }
    assert.equal(count, 20000);
    for await (const row of client.query(new QueryStream('SELECT generate_series(1, 20000) AS n', [], options))) {
      if (row.n === 300) {
        break; // destroys the stream, which closes its portal
      }
    }
    assert.equal((await client.query('SELECT 9 AS n')).rows[0].n, 9);
  }),

  copies: () => connected(async (client) => {
    await client.query('CREATE TABLE node_copied (id int PRIMARY KEY, name text)');
    const lines = Array.from({ length: 50000 }, (_, n) => `${n}\tcopied ${n}\n`);
    const stream = client.query(copyFrom('COPY node_copied FROM STDIN'));
    await pipeline(Readable.from(lines), stream);
    assert.equal(stream.rowCount, 50000);
    let text = '';
    for await (const chunk of client.query(copyTo('COPY (SELECT * FROM node_copied ORDER BY id) TO STDOUT'))) {
      text += chunk;
    }
    assert.equal(text, lines.join(''));
    const twice = client.query(copyFrom('COPY node_copied FROM STDIN'));
    await assert.rejects(pipeline(Readable.from(['1\ttwice\n']), twice), { code: '23505' });
    assert.equal((await client.query('SELECT count(*)::int AS n FROM node_copied')).rows[0].n, 50000);
  }),

  'a statement timeout of the startup message': () => connected(async (client) => {
    for (let n = 0; n < 5; n++) {
      await assert.rejects(client.query('SELECT pg_sleep(20)'), { code: '57014' });
      assert.equal((await client.query('SHOW statement_timeout')).rows[0].statement_timeout, '100ms');
    }
  }, { statement_timeout: 100 }),

  'types, arrays and binary': () => connected(async (client) => {
    for (let n = 0; n < 20; n++) {
      const query = {
        text: 'SELECT $1::int AS a, $2::bytea AS b, $3::jsonb AS c, $4::int[] AS d, $5::timestamptz AS e, NULL AS f',
        values: [n, Buffer.from([0, 255]), { n }, [n, 2], new Date(86400000)],
      };
      const { rows, fields } = await client.query(query);
      assert.deepEqual(rows, [{ a: n, b: Buffer.from([0, 255]), c: { n }, d: [n, 2], e: new Date(86400000), f: null }]);
      assert.deepEqual(fields.map((field) => field.dataTypeID), [23, 17, 3802, 1007, 1184, 25]);
      const binary = await client.query({ text: `SELECT ${n} AS n`, binary: true, rowMode: 'array' });
      assert.deepEqual(binary.rows, [[n]]);
    }
  }),

  'pool of twenty': async () => {
    const pool = new Pool({ connectionString, max: 20 });
    await Promise.all(Array.from({ length: 400 }, async (_, n) => {
      const { rows } = await pool.query({ name: `shape_${n % 5}`, text: `SELECT $1::int + ${n % 5} AS n`, values: [n] });
      assert.equal(rows[0].n, n + (n % 5));
    }));
    await pool.end();
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log('PASS', name);
}
