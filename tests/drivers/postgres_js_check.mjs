// postgres.js through the pooler: it pipelines and prepares everything. Usage: postgres_js_check.mjs URL. Prints
// one PASS line per check; the first failure ends it. PGSLUICE_NODE_MODULES says where the driver is installed.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

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

  'cursors given up, rows one by one': async () => {
    for (let n = 0; n < 10; n++) {
      const got = [];
      await sql`SELECT n FROM generate_series(1, 1000) n`.cursor(10, (rows) => {
        got.push(...rows.map((row) => row.n));
        return got.length < 50 ? undefined : sql.CLOSE;
      });
      assert.deepEqual(got, Array.from({ length: 50 }, (_, k) => k + 1));
      for await (const [row] of sql`SELECT n FROM generate_series(1, 20) n`.cursor()) {
        if (row.n === 7) break;
      }
      let sum = 0;
      await sql`SELECT n FROM generate_series(1, 2000) n`.forEach((row) => { sum += row.n; });
      assert.equal(sum, 2001000);
    }
  },

  'a cursor in a transaction': async () => {
    await sql.begin('isolation level serializable read only', async (tx) => {
      const [{ pid }] = await tx`SELECT pg_backend_pid() AS pid`;
      for await (const rows of tx`SELECT n FROM generate_series(1, 100) n`.cursor(20)) {
        assert.equal(rows.length, 20);
      }
      assert.equal((await tx`SELECT pg_backend_pid() AS pid`)[0].pid, pid);
      assert.equal((await tx`SHOW transaction_isolation`)[0].transaction_isolation, 'serializable');
    });
  },

  'pipelined in a transaction': async () => {
    const got = await sql.begin((tx) => Array.from({ length: 100 }, (_, n) => tx`SELECT ${n}::int AS n, pg_backend_pid() AS pid`));
    assert.deepEqual(got.map(([row]) => row.n), Array.from({ length: 100 }, (_, n) => n));
    assert.equal(new Set(got.map(([row]) => row.pid)).size, 1);
  },

  'errors among pipelined queries': async () => {
    const results = await Promise.allSettled(Array.from({ length: 300 }, (_, n) => sql`SELECT 100 / ${n % 3}::int AS n`));
    results.forEach((result, n) => {
      if (n % 3 === 0) {
        assert.equal(result.reason.code, '22012');
      } else {
        assert.equal(result.value[0].n, Math.trunc(100 / (n % 3)));
      }
    });
  },

  'simple and unprepared': async () => {
    const several = await sql.unsafe('SELECT 1 AS a; SELECT 2 AS b').simple();
    assert.deepEqual(several.map((rows) => ({ ...rows[0] })), [{ a: 1 }, { b: 2 }]);
    for (let n = 0; n < 30; n++) {
      assert.equal((await sql.unsafe('SELECT $1::int AS n', [n], { prepare: n % 2 === 0 }))[0].n, n);
    }
  },

  descriptions: async () => {
    for (let n = 0; n < 20; n++) {
      const { types, columns } = await sql`SELECT ${1}::int AS a, ${'x'}::text AS b`.describe();
      assert.deepEqual([types, columns.map((column) => column.name)], [[23, 25], ['a', 'b']]);
    }
  },

  copies: async () => {
    await sql`CREATE TABLE pjs_copied (id int PRIMARY KEY, name text)`;
    const lines = Array.from({ length: 20000 }, (_, n) => `${n}\tcopied ${n}\n`);
    await pipeline(Readable.from(lines), await sql`COPY pjs_copied FROM STDIN`.writable());
    let text = '';
    const stream = await sql`COPY (SELECT * FROM pjs_copied ORDER BY id) TO STDOUT`.readable();
    stream.on('data', (chunk) => { text += chunk; });
    await once(stream, 'end'); // a loop over it destroys it at its end, which can leave the driver's connection hanging
    assert.equal(text, lines.join(''));
  },

  'types it looks up': async () => {
    await sql.unsafe("CREATE TYPE mood AS ENUM ('sad', 'happy')");
    for (let n = 0; n < 20; n++) {
      const [row] = await sql`SELECT ${sql.array([n, 2])}::int[] AS a, ${'happy'}::mood AS b, ${sql.json({ n })} AS c, ${
        Buffer.from([0, 255])}::bytea AS d, ${new Date(86400000)}::timestamptz AS e`;
      assert.deepEqual({ ...row }, { a: [n, 2], b: 'happy', c: { n }, d: Buffer.from([0, 255]), e: new Date(86400000) });
    }
  },

  'prepared transactions': async () => {
    await sql.begin(async (tx) => {
      await tx`INSERT INTO pjs_item VALUES (50, 'two phases')`;
      await tx.prepare('pjs');
    });
    assert.equal((await sql`SELECT count(*)::int AS n FROM pjs_item WHERE id = 50`)[0].n, 0);
    await sql.unsafe("COMMIT PREPARED 'pjs'");
    assert.equal((await sql`SELECT count(*)::int AS n FROM pjs_item WHERE id = 50`)[0].n, 1);
  },

  'a query cancelled': async () => {
    for (let n = 0; n < 3; n++) {
      const sleeper = sql`SELECT pg_sleep(20)`.execute();
      setTimeout(() => sleeper.cancel(), 300);
      await assert.rejects(sleeper, { code: '57014' });
    }
    assert.equal((await sql`SELECT 1 AS n`)[0].n, 1);
  },

  'large objects': async () => {
    const content = Buffer.alloc(1_000_000, 'large object ');
    const object = await sql.largeObject(); // in a transaction of its own, until it is closed
    await object.write(content);
    await object.seek(0);
    const [{ data }] = await object.read(content.length);
    assert.ok(data.equals(content));
    await object.close();
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
