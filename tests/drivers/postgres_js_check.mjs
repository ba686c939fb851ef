// postgres.js through the pooler: it pipelines and prepares everything. Usage: postgres_js_check.mjs URL. Prints
// one PASS line per check; the first failure ends it. PGSLUICE_NODE_MODULES says where the driver is installed.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.PGSLUICE_NODE_MODULES}/index.js`);
const postgres = require('postgres');
const sql = postgres(process.argv[2].split('?')[0], { ssl: false, max: 8, onnotice: () => {} });

const checks = {
  parameters: async () => {
    for (let n = 0; n < 50; n++) {
      assert.deepEqual([...(await sql`SELECT ${n}::int AS n, ${'t' + n} AS t`)], [{ n, t: 't' + n }]);
    }
  },

  'pipelined over several connections': async () => {
    const results = await Promise.all(Array.from({ length: 500 }, (_, n) => sql`SELECT ${n}::int AS n`));
    results.forEach((rows, n) => assert.equal(rows[0].n, n));
  },

  transactions: async () => {
    await sql`DROP TABLE IF EXISTS pjs_item`;
    await sql`CREATE TABLE pjs_item (id int PRIMARY KEY, name text)`;
    await assert.rejects(sql.begin(async (tx) => {
      await tx`INSERT INTO pjs_item VALUES (1, 'gone')`;
      await tx`SELECT 1/0`;
    }), { code: '22012' });
    await sql.begin(async (tx) => {
      await tx`INSERT INTO pjs_item ${sql([{ id: 2, name: 'two' }, { id: 3, name: 'three' }])}`;
      await tx.savepoint((point) => point`DELETE FROM pjs_item`.then(() => { throw new Error('back'); })).catch(() => {});
    });
    assert.equal((await sql`SELECT count(*)::int AS n FROM pjs_item`)[0].n, 2);
  },

  cursor: async () => {
    const got = [];
    await sql`SELECT n FROM generate_series(1, 100) n`.cursor(7, (rows) => { got.push(...rows.map((row) => row.n)); });
    assert.deepEqual(got, Array.from({ length: 100 }, (_, n) => n + 1));
  },

  'an error does not break the connection': async () => {
    await assert.rejects(sql`SELECT * FROM no_such_table`, { code: '42P01' });
    assert.equal((await sql`SELECT 1 AS n`)[0].n, 1);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log('PASS', name);
}
await sql.end();
