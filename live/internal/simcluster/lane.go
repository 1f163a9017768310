package simcluster

import (
	"sync"
	"time"
)

// lane does jobs one after another, each when it is due. It has a goroutine only
// while a job is being done.
type lane struct {
	mu   sync.Mutex
	jobs []job // by due time
	busy bool  // a timer is set for the first job, or one is being done
}

type job struct {
	due time.Time
	do  func()
}

// add has a job done after a while, and not before those that were added earlier;
// one that overtakes is done just before the last of these, if that still waits.
func (l *lane) add(after time.Duration, overtake bool, do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := job{time.Now().Add(after), do}
	l.jobs = append(l.jobs, j)
	if last := len(l.jobs) - 1; last > 0 {
		before := &l.jobs[last-1]
		if j.due.Before(before.due) {
			l.jobs[last].due = before.due
		}
		if overtake {
			before.do, l.jobs[last].do = l.jobs[last].do, before.do
		}
	}
	if !l.busy {
		l.busy = true
		time.AfterFunc(after, l.work)
	}
}

// work does what is due.
func (l *lane) work() {
	for {
		l.mu.Lock()
		if len(l.jobs) == 0 {
			l.busy = false
			l.mu.Unlock()
			return
		}
		if wait := time.Until(l.jobs[0].due); wait > 0 {
			time.AfterFunc(wait, l.work)
			l.mu.Unlock()
			return
		}
		do := l.jobs[0].do
		l.jobs = l.jobs[1:]
		l.mu.Unlock()
		do()
	}
}
