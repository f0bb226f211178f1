// The works of tools/bench peers on BadgerDB in this process, with SyncWrites: what is acknowledged is on disk.
//
// Reads one JSON request a line from standard input and answers each with one line: {"seconds": ...} or {"error": ...}.
// Values and keys are those of benchmarks/peers/peer.py: 8 bytes of number, then random bytes, under 10,000 keys.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"time"

	badger "github.com/dgraph-io/badger/v4"
)

const keyCount = 10_000

type request struct {
	Work       string `json:"work"`
	Warming    int    `json:"warming"`
	Count      int    `json:"count"`
	InFlight   int    `json:"in_flight"`
	ValueBytes int    `json:"value_bytes"`
}

type answer struct {
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

type pair struct{ key, value []byte }

func pairs(count, valueBytes int) []pair {
	source := rand.New(rand.NewSource(1))
	made := make([]pair, count)
	for number := range made {
		value := make([]byte, valueBytes)
		source.Read(value)
		binary.BigEndian.PutUint64(value, uint64(number))
		made[number] = pair{[]byte(fmt.Sprintf("n%08d", number%keyCount)), value}
	}
	return made
}

// inFlight does something with each of count numbers, so many at a time, and gives the time it took.
func inFlight(count, workers int, do func(number int) error) (time.Duration, error) {
	var next atomic.Int64
	var failure atomic.Value
	var group sync.WaitGroup
	started := time.Now()
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for number := int(next.Add(1)) - 1; number < count; number = int(next.Add(1)) - 1 {
				if err := do(number); err != nil {
					failure.Store(err)
					return
				}
			}
		}()
	}
	group.Wait()
	if err, failed := failure.Load().(error); failed {
		return 0, err
	}
	return time.Since(started), nil
}

func bulk(db *badger.DB, saves []pair) error {
	batch := db.NewWriteBatch()
	defer batch.Cancel()
	for _, save := range saves {
		if err := batch.Set(save.key, save.value); err != nil {
			return err
		}
	}
	return batch.Flush()
}

// check reads everything and compares the number of keys and the last value.
func check(db *badger.DB, saves []pair) error {
	expected := min(len(saves), keyCount)
	found, err := list(db)
	if err != nil {
		return err
	}
	if found != expected {
		return fmt.Errorf("keys: %d, expected %d; the peer lost or changed work", found, expected)
	}
	last := saves[len(saves)-1]
	return db.View(func(transaction *badger.Txn) error {
		item, err := transaction.Get(last.key)
		if err != nil {
			return err
		}
		return item.Value(func(value []byte) error {
			if string(value) != string(last.value) {
				return fmt.Errorf("the value of %s is not the last one saved", last.key)
			}
			return nil
		})
	})
}

func list(db *badger.DB) (int, error) {
	var rows []pair
	err := db.View(func(transaction *badger.Txn) error {
		options := badger.DefaultIteratorOptions
		options.PrefetchSize = 1_000
		iterator := transaction.NewIterator(options)
		defer iterator.Close()
		for iterator.Rewind(); iterator.Valid(); iterator.Next() {
			item := iterator.Item()
			value, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			rows = append(rows, pair{item.KeyCopy(nil), value})
		}
		return nil
	})
	return len(rows), err
}

func run(db *badger.DB, asked request) (time.Duration, error) {
	saves := pairs(asked.Warming+asked.Count, asked.ValueBytes)
	set := func(save pair) error {
		return db.Update(func(transaction *badger.Txn) error { return transaction.Set(save.key, save.value) })
	}
	switch asked.Work {
	case "saves":
		warm := func(number int) error { return set(saves[number]) }
		if _, err := inFlight(asked.Warming, asked.InFlight, warm); err != nil {
			return 0, err
		}
		taken, err := inFlight(asked.Count, asked.InFlight, func(number int) error { return set(saves[asked.Warming+number]) })
		if err != nil {
			return 0, err
		}
		return taken, check(db, saves)
	case "bulk":
		if err := bulk(db, saves[:asked.Warming]); err != nil {
			return 0, err
		}
		started := time.Now()
		err := bulk(db, saves[asked.Warming:])
		taken := time.Since(started)
		if err != nil {
			return 0, err
		}
		return taken, check(db, saves)
	}
	saves = saves[:asked.Warming] // for reads: what the store is filled with
	if err := bulk(db, saves); err != nil {
		return 0, err
	}
	if err := check(db, saves); err != nil {
		return 0, err
	}
	if asked.Work == "list" {
		return inFlight(asked.Count, 1, func(int) error {
			_, err := list(db)
			return err
		})
	}
	get := func(number int) error {
		wanted := saves[number*7919%len(saves)]
		return db.View(func(transaction *badger.Txn) error {
			item, err := transaction.Get(wanted.key)
			if err != nil {
				return err
			}
			value, err := item.ValueCopy(nil)
			if err == nil && len(value) != asked.ValueBytes {
				err = fmt.Errorf("%s has %d bytes", wanted.key, len(value))
			}
			return err
		})
	}
	if _, err := inFlight(min(500, asked.Count), asked.InFlight, get); err != nil {
		return 0, err
	}
	return inFlight(asked.Count, asked.InFlight, get)
}

func main() {
	options := badger.DefaultOptions(os.Args[1]).WithSyncWrites(true).WithLoggingLevel(badger.ERROR)
	db, err := badger.Open(options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer db.Close()
	lines := bufio.NewScanner(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked request
		var given answer
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			given.Error = err.Error()
		} else if taken, err := run(db, asked); err != nil {
			given.Error = err.Error()
		} else {
			given.Seconds = taken.Seconds()
		}
		answers.Encode(given)
	}
}
