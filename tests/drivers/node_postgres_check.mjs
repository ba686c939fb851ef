// node-postgres through the pooler. Usage: node_postgres_check.mjs URL. Prints one PASS line per check; the
// first failure ends it with a stack trace. PGSLUICE_NODE_MODULES says where the driver is installed.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.PGSLUICE_NODE_MODULES}/index.js`);
const { Client, Pool } = require('pg');
const connectionString = process.argv[2];

async function connected(work) {
  const client = new Client({ connectionString });
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
