package server

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/wire"
)

// Usage is what the server process spent while it was measured.
type Usage struct {
	CPU    time.Duration // user and system time of all threads
	Wall   time.Duration
	Allocs uint64 // objects
	RSS    int64  // bytes at the end
}

// Memory is what the process holds after a collection.
type Memory struct {
	RSS   int64 // resident, as the kernel counts
	Heap  int64 // spans in use
	Stack int64
}

// meter measures from open to close. To read the allocator's counters stops the world, so it
// reads them outside the time that counts.
type meter struct {
	allocs uint64
	cpu    time.Duration
	wall   int64
}

func (m *meter) open() {
	m.allocs = allocs()
	m.wall = wire.Now()
	m.cpu = cpuTime()
}

func (m *meter) close() Usage {
	u := Usage{CPU: cpuTime() - m.cpu, Wall: time.Duration(wire.Now() - m.wall)}
	u.Allocs = allocs() - m.allocs
	u.RSS = rss()
	return u
}

func cpuTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic("server: getrusage: " + err.Error())
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func allocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func readMemory() Memory {
	runtime.GC() // the next one frees what a finalizer or a sync.Pool lets go of in this one
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Memory{RSS: rss(), Heap: int64(m.HeapInuse), Stack: int64(m.StackInuse)}
}

func rss() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// RaiseFileLimit lets the process open as many files as it ever may.
func RaiseFileLimit() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("open-file limit: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("open-file limit: %w", err)
	}
	return nil
}

// FileLimit is how many files the process may open.
func FileLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<30))
}
