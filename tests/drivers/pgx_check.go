// Go's pgx (version 4) through the pooler, as applications use it directly. Usage: pgx_check URL. Prints one PASS line per
// check; the first failure ends it.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var background = context.Background()

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func same(expected, got interface{}) {
	if fmt.Sprint(expected) != fmt.Sprint(got) {
		panic(fmt.Sprintf("expected %v, got %v", expected, got))
	}
}

func fails(sqlState string, err error) {
	var report *pgconn.PgError
	if !errors.As(err, &report) {
		panic(fmt.Sprintf("expected error %s, got %v", sqlState, err))
	}
	same(sqlState, report.Code)
}

// Connects, with more parameters of the URL's kind: name=value.
func connect(options ...string) *pgx.Conn {
	conn, err := pgx.Connect(background, with(options...))
	must(err)
	return conn
}

func with(options ...string) string {
	url := strings.Split(os.Args[1], "?")[0]
	return url + "?" + strings.Join(append([]string{"sslmode=disable"}, options...), "&")
}

type querier interface {
	QueryRow(context.Context, string, ...interface{}) pgx.Row
}

func number(conn querier, sql string, arguments ...interface{}) (value int) {
	must(conn.QueryRow(background, sql, arguments...).Scan(&value))
	return value
}

func run(conn *pgx.Conn, sql string) {
	_, err := conn.Exec(background, sql)
	must(err)
}

func statementCaches() {
	for _, mode := range []string{"prepare", "describe"} {
		conn := connect("statement_cache_mode="+mode, "statement_cache_capacity=20")
		for n := 0; n < 200; n++ {
			same(2*n, number(conn, "SELECT $1::int * 2", n))
		}
		for n := 0; n < 200; n++ { // more texts than the cache holds
			same(n+n%60, number(conn, fmt.Sprintf("SELECT $1::int + %d", n%60), n))
		}
		must(conn.Close(background))
	}
}

func preparedByName() {
	conn := connect()
	defer conn.Close(background)
	for round := 0; round < 20; round++ {
		description, err := conn.Prepare(background, "lrupsc_1_0", "SELECT $1::text || '!'")
		must(err)
		same("[25]", fmt.Sprint(description.ParamOIDs))
		var got string
		must(conn.QueryRow(background, "lrupsc_1_0", "hello").Scan(&got))
		same("hello!", got)
		must(conn.Deallocate(background, "lrupsc_1_0"))
		_, err = conn.PgConn().ExecPrepared(background, "lrupsc_1_0", [][]byte{[]byte("x")}, nil, nil).Close()
		fails("26000", err)
	}
}

func simpleProtocol() {
	config, err := pgx.ParseConfig(with())
	must(err)
	config.PreferSimpleProtocol = true
	conn, err := pgx.ConnectConfig(background, config)
	must(err)
	defer conn.Close(background)
	for n := 0; n < 50; n++ {
		same(n+1, number(conn, "SELECT $1::int + 1", n))
		var text string
		must(conn.QueryRow(background, "SELECT $1::text", "it's \\ ünï").Scan(&text))
		same("it's \\ ünï", text)
	}
	results, err := conn.PgConn().Exec(background, "SELECT 1; SELECT 2, 3; SELECT 1/0; SELECT 4").ReadAll()
	fails("22012", err)
	same(2, len(results))
	same("3", string(results[1].Rows[0][1]))
}

func transactions() {
	conn := connect()
	defer conn.Close(background)
	run(conn, "CREATE TABLE pgx_item (id int PRIMARY KEY, name text)")
	tx, err := conn.BeginTx(background, pgx.TxOptions{IsoLevel: pgx.Serializable})
	must(err)
	server := number(tx, "SELECT pg_backend_pid()")
	_, err = tx.Exec(background, "INSERT INTO pgx_item VALUES ($1, $2)", 1, "one")
	must(err)
	inner, err := tx.Begin(background)
	must(err)
	_, err = inner.Exec(background, "INSERT INTO pgx_item VALUES ($1, $2)", 1, "again")
	fails("23505", err)
	_, err = inner.Exec(background, "SELECT 1")
	fails("25P02", err)
	must(inner.Rollback(background))
	same(server, number(tx, "SELECT pg_backend_pid()"))
	must(tx.Commit(background))
	tx, err = conn.Begin(background)
	must(err)
	_, err = tx.Exec(background, "DELETE FROM pgx_item")
	must(err)
	must(tx.Rollback(background))
	same(1, number(conn, "SELECT count(*) FROM pgx_item"))
	_, err = conn.Exec(background, "SELEC")
	fails("42601", err)
	same(1, number(conn, "SELECT 1"))
}

func batches() {
	for _, mode := range []string{"prepare", "describe"} {
		conn := connect("statement_cache_mode=" + mode)
		for round := 0; round < 10; round++ {
			batch := &pgx.Batch{}
			for n := 0; n < 300; n++ {
				batch.Queue(fmt.Sprintf("SELECT $1::int + %d", n%10), n)
			}
			results := conn.SendBatch(background, batch)
			for n := 0; n < 300; n++ {
				var got int
				must(results.QueryRow().Scan(&got))
				same(n+n%10, got)
			}
			must(results.Close())

			batch = &pgx.Batch{}
			batch.Queue("INSERT INTO pgx_item VALUES ($1, 'batch')", 1000+round)
			batch.Queue("SELECT 1 / $1::int", 0)
			batch.Queue("SELECT 'never'")
			results = conn.SendBatch(background, batch)
			_, err := results.Exec()
			must(err)
			_, err = results.Exec()
			fails("22012", err)
			fails("22012", results.Close())
			same(1, number(conn, "SELECT count(*) FROM pgx_item")) // one implicit transaction
		}
		must(conn.Close(background))
	}
}

func copies() {
	conn := connect()
	defer conn.Close(background)
	rows := make([][]interface{}, 20000)
	for n := range rows {
		rows[n] = []interface{}{10000 + n, fmt.Sprintf("copied %d", n)}
	}
	source := func() pgx.CopyFromSource { return pgx.CopyFromRows(rows) }
	copied, err := conn.CopyFrom(background, pgx.Identifier{"pgx_item"}, []string{"id", "name"}, source())
	must(err)
	same(20000, copied)
	_, err = conn.CopyFrom(background, pgx.Identifier{"pgx_item"}, []string{"id", "name"}, source())
	fails("23505", err)
	_, err = conn.CopyFrom(background, pgx.Identifier{"pgx_item"}, []string{"id", "name"},
		pgx.CopyFromSlice(10, func(n int) ([]interface{}, error) { return nil, errors.New("changed my mind") }))
	fails("57014", err)
	var out bytes.Buffer
	sql := "COPY (SELECT id FROM pgx_item WHERE id >= 10000 ORDER BY id) TO STDOUT"
	_, err = conn.PgConn().CopyTo(background, &out, sql)
	must(err)
	same(20000, strings.Count(out.String(), "\n"))
	same(true, strings.HasPrefix(out.String(), "10000\n10001\n"))
	same(20001, number(conn, "SELECT count(*) FROM pgx_item"))
}

func rowsReadAndGivenUp() {
	conn := connect()
	defer conn.Close(background)
	for round := 0; round < 10; round++ {
		rows, err := conn.Query(background, "SELECT n, repeat('x', 500) FROM generate_series(1, $1::int) n", 5000)
		must(err)
		count := 0
		for rows.Next() {
			var n int
			var text string
			must(rows.Scan(&n, &text))
			count++
			same(count, n)
			if round%2 == 1 && count == 100 {
				rows.Close() // reads and drops the rest
			}
		}
		must(rows.Err())
		same(map[int]int{0: 5000, 1: 100}[round%2], count)
	}
}

func types() {
	conn := connect()
	defer conn.Close(background)
	at := time.Date(2026, 2, 1, 12, 30, 0, 123456000, time.UTC)
	for n := 0; n < 20; n++ {
		var numbers []int32
		var data []byte
		var when time.Time
		var object map[string]int
		var missing *int
		row := conn.QueryRow(background, "SELECT $1::int[], $2::bytea, $3::timestamptz, $4::jsonb, NULL::int",
			[]int32{int32(n), 2, 3}, []byte{0, 255}, at, map[string]int{"n": n})
		must(row.Scan(&numbers, &data, &when, &object, &missing))
		same([]int32{int32(n), 2, 3}, numbers)
		same([]byte{0, 255}, data)
		same(true, when.Equal(at))
		same(n, object["n"])
		same(true, missing == nil)
	}
}

// pgx ends a connection whose query it gave up, and sends a cancel request by the way.
func contexts() {
	for round := 0; round < 5; round++ {
		conn := connect()
		start := time.Now()
		limited, stop := context.WithTimeout(background, 200*time.Millisecond)
		_, err := conn.Exec(limited, "SELECT pg_sleep(30)")
		same(true, err != nil && limited.Err() != nil)
		stop()
		<-conn.PgConn().CleanupDone()
		same(true, conn.IsClosed())
		same(true, time.Since(start) < 10*time.Second)
	}
	conn := connect()
	defer conn.Close(background)
	go func() {
		time.Sleep(300 * time.Millisecond)
		must(conn.PgConn().CancelRequest(background))
	}()
	_, err := conn.Exec(background, "SELECT pg_sleep(30)")
	fails("57014", err)
	same(0, number(conn, "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'"))
}

func largeObjects() {
	conn := connect()
	defer conn.Close(background)
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	tx, err := conn.Begin(background)
	must(err)
	objects := tx.LargeObjects()
	oid, err := objects.Create(background, 0)
	must(err)
	object, err := objects.Open(background, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	must(err)
	_, err = object.Write(content)
	must(err)
	_, err = object.Seek(0, io.SeekStart)
	must(err)
	got := make([]byte, len(content))
	_, err = io.ReadFull(object, got)
	must(err)
	same(true, bytes.Equal(content, got))
	must(objects.Unlink(background, oid))
	must(tx.Commit(background))
}

func pool() {
	pool, err := pgxpool.Connect(background, with("pool_max_conns=10"))
	must(err)
	defer pool.Close()
	var group sync.WaitGroup
	failures := make(chan error, 20)
	for worker := 0; worker < 20; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			for n := 0; n < 20; n++ {
				err := pool.BeginFunc(background, func(tx pgx.Tx) error {
					before := number(tx, "SELECT pg_backend_pid()")
					sql := fmt.Sprintf("SELECT $1::int + %d", worker%5)
					if number(tx, sql, n) != n+worker%5 || number(tx, "SELECT pg_backend_pid()") != before {
						return fmt.Errorf("worker %d got a foreign answer", worker)
					}
					return nil
				})
				if err != nil {
					failures <- err
					return
				}
			}
		}(worker)
	}
	group.Wait()
	close(failures)
	for err := range failures {
		panic(err)
	}
}

func main() {
	checks := []struct {
		name string
		run  func()
	}{
		{"statement caches", statementCaches},
		{"prepared by name", preparedByName},
		{"simple protocol", simpleProtocol},
		{"transactions", transactions},
		{"batches", batches},
		{"copies", copies},
		{"rows read and given up", rowsReadAndGivenUp},
		{"types", types},
		{"contexts", contexts},
		{"large objects", largeObjects},
		{"pool", pool},
	}
	for _, check := range checks {
		check.run()
		fmt.Println("PASS", check.name)
	}
}
