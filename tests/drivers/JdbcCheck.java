// JDBC through the pooler, as applications use it directly. Usage: java -cp postgresql.jar JdbcCheck.java URL, with a URL
// of libpq's form. Prints one PASS line per check; the first failure ends it with a stack trace.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyIn;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.xa.PGXADataSource;

public class JdbcCheck {
    interface Check {
        void run() throws Exception;
    }

    interface Failing {
        void run() throws SQLException;
    }

    static URI target;

    /** A connection; {@code options} are names and values of the driver's properties, in turn. */
    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        String[] login = target.getUserInfo().split(":");
        properties.setProperty("user", login[0]);
        properties.setProperty("password", login[1]);
        properties.setProperty("sslmode", "disable");
        for (int i = 0; i < options.length; i += 2) {
            properties.setProperty(options[i], options[i + 1]);
        }
        return DriverManager.getConnection(
            "jdbc:postgresql://" + target.getHost() + ":" + target.getPort() + target.getPath(), properties);
    }

    static void same(Object expected, Object got) {
        if (!Objects.deepEquals(expected, got)) {
            throw new AssertionError("expected " + expected + ", got " + got);
        }
    }

    static SQLException fails(String sqlState, Failing work) {
        try {
            work.run();
        } catch (SQLException error) {
            same(sqlState, error.getSQLState());
            return error;
        }
        throw new AssertionError("no error " + sqlState);
    }

    static void run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static long number(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            same(true, rows.next());
            long value = rows.getLong(1);
            same(false, rows.next());
            return value;
        }
    }

    static long number(PreparedStatement statement, int parameter) throws SQLException {
        statement.setInt(1, parameter);
        try (ResultSet rows = statement.executeQuery()) {
            same(true, rows.next());
            return rows.getLong(1);
        }
    }

    static void preparedStatements() throws Exception {
        for (String threshold : List.of("-1", "0", "1", "5")) {
            try (Connection connection = connect("prepareThreshold", threshold)) {
                try (PreparedStatement twice = connection.prepareStatement("SELECT ? * 2")) {
                    for (int n = 0; n < 60; n++) {
                        same(2L * n, number(twice, n));
                    }
                }
            }
        }
    }

    static void moreStatementsThanTheCacheHolds() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1", "preparedStatementCacheQueries", "20")) {
            for (int round = 0; round < 3; round++) {
                for (int n = 0; n < 80; n++) {
                    try (PreparedStatement statement = connection.prepareStatement("SELECT ? + " + n)) {
                        same((long) round + n, number(statement, round));
                    }
                }
            }
        }
    }

    static void transactionsAndSavepoints() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            run(connection, "CREATE TABLE item (id serial PRIMARY KEY, name text UNIQUE)");
            connection.setAutoCommit(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
            long server = number(connection, "SELECT pg_backend_pid()");
            run(connection, "INSERT INTO item (name) VALUES ('kept')");
            Savepoint savepoint = connection.setSavepoint();
            fails("23505", () -> run(connection, "INSERT INTO item (name) VALUES ('kept')"));
            fails("25P02", () -> run(connection, "SELECT 1"));
            connection.rollback(savepoint);
            Savepoint named = connection.setSavepoint("named");
            run(connection, "INSERT INTO item (name) VALUES ('gone')");
            connection.rollback(named);
            same(server, number(connection, "SELECT pg_backend_pid()"));
            connection.commit();
            run(connection, "DELETE FROM item");
            connection.rollback();
            same(1L, number(connection, "SELECT count(*) FROM item"));
            connection.rollback();
            connection.setReadOnly(true);
            fails("25006", () -> run(connection, "DELETE FROM item"));
            connection.rollback();
        }
    }

    static void generatedKeys() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            for (int n = 0; n < 10; n++) {
                try (PreparedStatement insert = connection.prepareStatement(
                        "INSERT INTO item (name) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
                    insert.setString(1, "generated " + n);
                    same(1, insert.executeUpdate());
                    ResultSet keys = insert.getGeneratedKeys();
                    same(true, keys.next());
                    same("generated " + n, keys.getString("name"));
                    long id = keys.getLong("id");
                    same(1L, number(connection, "SELECT count(*) FROM item WHERE id = " + id));
                }
            }
        }
    }

    static void batches() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            try (Connection connection = connect("prepareThreshold", "1", "reWriteBatchedInserts", rewrite)) {
                run(connection, "DROP TABLE IF EXISTS batch; CREATE TABLE batch (id int PRIMARY KEY, name text)");
                try (PreparedStatement insert = connection.prepareStatement("INSERT INTO batch VALUES (?, ?)")) {
                    for (int n = 0; n < 2000; n++) {
                        insert.setInt(1, n);
                        insert.setString(2, "x".repeat(100));
                        insert.addBatch();
                    }
                    same(2000, insert.executeBatch().length);
                    for (int id : new int[] {5000, 5001, 17, 5002}) {
                        insert.setInt(1, id);
                        insert.setString(2, "y");
                        insert.addBatch();
                    }
                    fails("23505", insert::executeBatch);
                }
                same(2000L, number(connection, "SELECT count(*) FROM batch"));
                try (Statement statement = connection.createStatement()) {
                    for (int n = 0; n < 300; n++) {
                        statement.addBatch("UPDATE batch SET name = 'updated' WHERE id = " + n);
                    }
                    same(300, Arrays.stream(statement.executeBatch()).sum());
                }
                same(300L, number(connection, "SELECT count(*) FROM batch WHERE name = 'updated'"));
            }
        }
    }

    static void rowsFetchedByACursor() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            connection.setAutoCommit(false);
            for (int round = 0; round < 3; round++) {
                try (PreparedStatement walk = connection.prepareStatement("SELECT n FROM generate_series(1, ?) n")) {
                    walk.setFetchSize(33);
                    walk.setInt(1, 1000);
                    ResultSet rows = walk.executeQuery();
                    int expected = 0;
                    while (rows.next()) {
                        same(++expected, rows.getInt(1));
                        if (expected % 100 == 0) { // another statement while the portal is open
                            same(7L, number(connection, "SELECT 7"));
                        }
                    }
                    same(1000, expected);
                }
                try (PreparedStatement some = connection.prepareStatement("SELECT n FROM generate_series(1, 500) n")) {
                    some.setFetchSize(10);
                    ResultSet rows = some.executeQuery();
                    same(true, rows.next());
                    rows.close(); // closes a portal that has more
                }
                connection.commit();
            }
        }
    }

    static void limitsRowsAndTypes() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            run(connection, "CREATE TYPE mood AS ENUM ('sad', 'happy')");
            for (int n = 0; n < 10; n++) { // from some use on the driver asks for binary values
                try (PreparedStatement all = connection.prepareStatement(
                        "SELECT ?::int[], ?::bytea, ?::timestamp, ?::numeric, ?::mood, NULL::int, ?::uuid")) {
                    Timestamp at = Timestamp.valueOf("2026-02-01 12:30:00.123456");
                    UUID uuid = UUID.nameUUIDFromBytes(new byte[] {(byte) n});
                    all.setArray(1, connection.createArrayOf("int4", new Object[] {n, 2, 3}));
                    all.setBytes(2, new byte[] {0, 1, (byte) 255});
                    all.setTimestamp(3, at);
                    all.setBigDecimal(4, new java.math.BigDecimal("12345.6789"));
                    all.setObject(5, "happy", Types.OTHER);
                    all.setObject(6, uuid);
                    ResultSet row = all.executeQuery();
                    same(true, row.next());
                    same(new Integer[] {n, 2, 3}, row.getArray(1).getArray());
                    same(new byte[] {0, 1, (byte) 255}, row.getBytes(2));
                    same(at, row.getTimestamp(3));
                    same("12345.6789", row.getBigDecimal(4).toPlainString());
                    same("happy", row.getString(5));
                    row.getInt(6);
                    same(true, row.wasNull());
                    same(uuid, row.getObject(7));
                }
            }
            try (Statement limited = connection.createStatement()) {
                limited.setMaxRows(3); // an Execute with a limit whose portal is given up
                ResultSet rows = limited.executeQuery("SELECT generate_series(1, 100)");
                same(true, rows.next() && rows.next() && rows.next() && !rows.next());
                same(true, limited.execute("SELECT 1; UPDATE item SET name = name; SELECT 2"));
                same(false, limited.getMoreResults());
                same(11, limited.getUpdateCount());
                same(true, limited.getMoreResults());
            }
        }
    }

    static void metaData() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            for (int n = 0; n < 7; n++) {
                ResultSet columns = connection.getMetaData().getColumns(null, "public", "item", "%");
                same(true, columns.next());
                same("id", columns.getString("COLUMN_NAME"));
                same(true, columns.next());
                same("name", columns.getString("COLUMN_NAME"));
                same(false, columns.next());
                try (PreparedStatement described = connection.prepareStatement("SELECT id, ?::date AS d FROM item")) {
                    same(Types.DATE, described.getParameterMetaData().getParameterType(1));
                    same("d", described.getMetaData().getColumnName(2));
                }
            }
            try (Statement statement = connection.createStatement(
                    ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
                ResultSet rows = statement.executeQuery("SELECT id, name FROM item WHERE name = 'kept'");
                same(true, rows.next());
                rows.updateString("name", "changed in place");
                rows.updateRow();
            }
            same(1L, number(connection, "SELECT count(*) FROM item WHERE name = 'changed in place'"));
        }
    }

    static void copy() throws Exception {
        try (Connection connection = connect()) {
            run(connection, "CREATE TABLE copied (id int PRIMARY KEY, name text)");
            StringBuilder rows = new StringBuilder();
            for (int n = 0; n < 20_000; n++) {
                rows.append(n).append("\trow ").append(n).append('\n');
            }
            var manager = connection.unwrap(PGConnection.class).getCopyAPI();
            same(20_000L, manager.copyIn("COPY copied FROM STDIN", new StringReader(rows.toString())));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            same(20_000L, manager.copyOut("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT", out));
            same(rows.toString(), out.toString(StandardCharsets.UTF_8));
            CopyIn given = manager.copyIn("COPY copied FROM STDIN");
            byte[] line = "99999\tgiven up\n".getBytes(StandardCharsets.UTF_8);
            given.writeToCopy(line, 0, line.length);
            given.cancelCopy();
            try {
                manager.copyIn("COPY copied FROM STDIN", new StringReader("1\ttwice\n"));
                throw new AssertionError("a duplicate key passed");
            } catch (SQLException error) {
                same("23505", error.getSQLState());
            }
            same(20_000L, number(connection, "SELECT count(*) FROM copied"));
        }
    }

    static void autosave() throws Exception {
        for (String mode : List.of("always", "conservative", "never")) {
            try (Connection connection = connect("prepareThreshold", "1", "autosave", mode)) {
                run(connection, "DROP TABLE IF EXISTS saved; CREATE TABLE saved (id int PRIMARY KEY)");
                connection.setAutoCommit(false);
                for (int n = 0; n < 20; n++) {
                    run(connection, "INSERT INTO saved VALUES (" + n + ")");
                    if (!mode.equals("always")) {
                        connection.commit();
                    }
                    fails("23505", () -> run(connection, "INSERT INTO saved VALUES (0)"));
                    if (mode.equals("always")) { // back to before the failure, behind the program's back
                        same(n + 1L, number(connection, "SELECT count(*) FROM saved"));
                    } else {
                        fails("25P02", () -> number(connection, "SELECT count(*) FROM saved"));
                        connection.rollback();
                    }
                    connection.commit();
                }
                same(20L, number(connection, "SELECT count(*) FROM saved"));
                connection.commit();
            }
        }
    }

    static void aTableThatChangesUnderAStatement() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1"); Connection other = connect()) {
            run(connection, "CREATE TABLE changing (id int)");
            run(connection, "INSERT INTO changing VALUES (1)");
            try (PreparedStatement all = connection.prepareStatement("SELECT * FROM changing")) {
                for (int columns = 1; columns < 6; columns++) {
                    for (int n = 0; n < 10; n++) {
                        ResultSet rows = all.executeQuery();
                        same(true, rows.next());
                        same(columns, rows.getMetaData().getColumnCount());
                    }
                    run(other, "ALTER TABLE changing ADD COLUMN c" + columns + " int");
                }
                run(other, "ALTER TABLE changing ALTER COLUMN id TYPE text");
                ResultSet rows = all.executeQuery();
                same(true, rows.next());
                same("1", rows.getString(1));
            }
        }
    }

    static void everyQueryMode() throws Exception {
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            try (Connection connection = connect("preferQueryMode", mode, "prepareThreshold", "1")) {
                for (int n = 0; n < 30; n++) {
                    same((long) n, number(connection, "SELECT " + n));
                    try (PreparedStatement plus = connection.prepareStatement("SELECT ?::int + 1")) {
                        same(n + 1L, number(plus, n));
                    }
                }
                fails("22012", () -> run(connection, "SELECT 1/0"));
                fails("42601", () -> run(connection, "SELEC"));
                connection.setAutoCommit(false);
                same(9L, number(connection, "SELECT 9"));
                fails("42P01", () -> run(connection, "SELECT * FROM no_such_table"));
                connection.rollback();
                connection.setAutoCommit(true);
                same(1L, number(connection, "SELECT 1"));
                run(connection, "DEALLOCATE ALL");
                try (PreparedStatement plus = connection.prepareStatement("SELECT ?::int + 1")) {
                    same(3L, number(plus, 2));
                }
            }
        }
    }

    static void cancelAndTimeout() throws Exception {
        try (Connection connection = connect(); Statement sleeper = connection.createStatement()) {
            long start = System.nanoTime();
            sleeper.setQueryTimeout(1);
            fails("57014", () -> sleeper.execute("SELECT pg_sleep(30)"));
            sleeper.setQueryTimeout(0);
            ScheduledExecutorService later = Executors.newSingleThreadScheduledExecutor();
            later.schedule(() -> {
                sleeper.cancel();
                return null;
            }, 300, TimeUnit.MILLISECONDS);
            fails("57014", () -> sleeper.execute("SELECT pg_sleep(30)"));
            later.shutdown();
            same(true, System.nanoTime() - start < 20_000_000_000L);
            same(1L, number(connection, "SELECT 1"));
        }
    }

    static void largeObjects() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO();
            byte[] bytes = new byte[3_000_000];
            new Random(1).nextBytes(bytes);
            LargeObject object = manager.open(oid, LargeObjectManager.READWRITE);
            for (int at = 0; at < bytes.length; at += 100_000) {
                object.write(bytes, at, 100_000);
            }
            same(3_000_000L, object.size64());
            object.seek(1_234_567);
            same(Arrays.copyOfRange(bytes, 1_234_567, 1_234_667), object.read(100));
            object.close();
            connection.commit();
            object = manager.open(oid, LargeObjectManager.READ);
            same(bytes, object.getInputStream().readAllBytes());
            object.close();
            manager.delete(oid);
            connection.commit();
            same(0L, number(connection, "SELECT count(*) FROM pg_largeobject_metadata WHERE oid = " + oid));
            // A function call that fails.
            fails("42704", () -> manager.open(oid, LargeObjectManager.READ));
            connection.rollback();
            same(1L, number(connection, "SELECT 1"));
            connection.rollback();
        }
    }

    static void functionsAndRefcursors() throws Exception {
        try (Connection connection = connect("prepareThreshold", "1")) {
            run(connection, "CREATE FUNCTION walk(n int) RETURNS refcursor LANGUAGE plpgsql AS $$ DECLARE c refcursor;"
                + " BEGIN OPEN c FOR SELECT generate_series(1, n); RETURN c; END $$");
            run(connection, "CREATE PROCEDURE twice(INOUT n int) LANGUAGE plpgsql AS $$ BEGIN n := 2 * n; END $$");
            connection.setAutoCommit(false);
            for (int n = 1; n < 8; n++) {
                try (CallableStatement call = connection.prepareCall("{? = call walk(?)}")) {
                    call.registerOutParameter(1, Types.REF_CURSOR);
                    call.setInt(2, n);
                    call.execute();
                    int count = 0;
                    for (ResultSet rows = call.getObject(1, ResultSet.class); rows.next();) {
                        same(++count, rows.getInt(1));
                    }
                    same(n, count);
                }
                try (PreparedStatement call = connection.prepareStatement("CALL twice(?)")) {
                    same(2L * n, number(call, n));
                }
                connection.commit();
            }
        }
    }

    static void twoPhaseCommit() throws Exception {
        PGXADataSource source = new PGXADataSource();
        source.setUrl("jdbc:postgresql://" + target.getHost() + ":" + target.getPort() + target.getPath());
        source.setUser(target.getUserInfo().split(":")[0]);
        source.setPassword(target.getUserInfo().split(":")[1]);
        var xa = source.getXAConnection();
        try (Connection connection = xa.getConnection()) {
            run(connection, "CREATE TABLE phased (id int)");
            XAResource resource = xa.getXAResource();
            for (int n = 0; n < 10; n++) {
                Xid xid = xid(n);
                resource.start(xid, XAResource.TMNOFLAGS);
                run(connection, "INSERT INTO phased VALUES (" + n + ")");
                resource.end(xid, XAResource.TMSUCCESS);
                same(XAResource.XA_OK, resource.prepare(xid));
                same(1, resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length);
                if (n % 2 == 0) {
                    resource.commit(xid, false);
                } else {
                    resource.rollback(xid);
                }
            }
            same(5L, number(connection, "SELECT count(*) FROM phased"));
        } finally {
            xa.close();
        }
    }

    static Xid xid(int number) {
        return new Xid() {
            public int getFormatId() {
                return 1;
            }

            public byte[] getGlobalTransactionId() {
                return new byte[] {(byte) number};
            }

            public byte[] getBranchQualifier() {
                return new byte[] {1};
            }
        };
    }

    static void manyThreads() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(10);
        List<Future<Void>> all = new ArrayList<>();
        for (int thread = 0; thread < 10; thread++) {
            int base = thread * 1000;
            all.add(pool.submit(() -> {
                try (Connection connection = connect("prepareThreshold", "2")) {
                    connection.setAutoCommit(false);
                    try (PreparedStatement same = connection.prepareStatement("SELECT ?::int + " + base % 3000)) {
                        for (int n = 0; n < 30; n++) {
                            long server = number(connection, "SELECT pg_backend_pid()");
                            same((long) base + n + base % 3000, number(same, base + n));
                            same(server, number(connection, "SELECT pg_backend_pid()"));
                            connection.commit();
                        }
                    }
                }
                return null;
            }));
        }
        for (Future<Void> one : all) {
            one.get();
        }
        pool.shutdown();
    }

    public static void main(String[] arguments) throws Exception {
        target = URI.create(arguments[0]);
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("preparedStatements", JdbcCheck::preparedStatements);
        checks.put("moreStatementsThanTheCacheHolds", JdbcCheck::moreStatementsThanTheCacheHolds);
        checks.put("transactionsAndSavepoints", JdbcCheck::transactionsAndSavepoints);
        checks.put("generatedKeys", JdbcCheck::generatedKeys);
        checks.put("batches", JdbcCheck::batches);
        checks.put("rowsFetchedByACursor", JdbcCheck::rowsFetchedByACursor);
        checks.put("limitsRowsAndTypes", JdbcCheck::limitsRowsAndTypes);
        checks.put("metaData", JdbcCheck::metaData);
        checks.put("copy", JdbcCheck::copy);
        checks.put("autosave", JdbcCheck::autosave);
        checks.put("aTableThatChangesUnderAStatement", JdbcCheck::aTableThatChangesUnderAStatement);
        checks.put("everyQueryMode", JdbcCheck::everyQueryMode);
        checks.put("cancelAndTimeout", JdbcCheck::cancelAndTimeout);
        checks.put("largeObjects", JdbcCheck::largeObjects);
        checks.put("functionsAndRefcursors", JdbcCheck::functionsAndRefcursors);
        checks.put("twoPhaseCommit", JdbcCheck::twoPhaseCommit);
        checks.put("manyThreads", JdbcCheck::manyThreads);
        for (var check : checks.entrySet()) {
            check.getValue().run();
            System.out.println("PASS " + check.getKey());
        }
    }
}
