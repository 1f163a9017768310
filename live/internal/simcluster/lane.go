package simcluster

import (
	"sync"
	"time"
)

// lane runs jobs one after another, each when it is due: it carries the deliveries of one topic to
// one node. It has a goroutine only while a job runs.
type lane struct {
	mu   sync.Mutex // guards the fields below
	jobs []job      // in the order in which they are due
	busy bool       // a timer is set for the first job, or a job runs
}

type job struct {
	due time.Time
	do  func()
}

// add makes the lane run a job after a time, but not before the jobs that were added earlier. If
// overtake is true, the job changes places with the job that was added last, if that still waits.
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

// work runs the jobs that are due, and sets the timer for the next job.
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
