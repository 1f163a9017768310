package simcluster_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

// tape is a Sink that records its calls.
type tape struct {
	mu  sync.Mutex
	got []string
}

func (t *tape) Deliver(p *broker.Publication) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got = append(t.got, fmt.Sprintf("%s %s %d %d", p.Data, p.Epoch, p.Offset, p.Prev))
}

func (t *tape) Lost(topic string, cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got = append(t.got, fmt.Sprint("lost ", topic, cause))
}

// record runs a cluster of two nodes, and publishes at one of them. It returns the deliveries at
// the other node, and the log.
func record(t *testing.T, seed uint64, faults simcluster.Faults) (got, log, incidents []string) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		sim := simcluster.NewSim(seed, 2, faults)
		var sink, other tape
		sim.Node(0).Start(&other)
		sim.Node(1).Start(&sink)
		sim.Node(1).Subscribe(t.Context(), "t")
		for i := range 200 {
			sim.Node(0).Publish(t.Context(), "t", fmt.Append(nil, i), broker.PublishOptions{History: 20})
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		sink.mu.Lock()
		got = slices.Clone(sink.got)
		sink.mu.Unlock()
		for _, e := range sim.Log("t") {
			log = append(log, fmt.Sprintf("%s %s %d %d", e.Data, e.Epoch, e.Offset, e.Prev))
		}
		for _, i := range sim.Incidents() {
			incidents = append(incidents, fmt.Sprint(i.Time.Sub(start), " ", i.Node, i.Topic, i.What))
		}
		sim.Node(0).Close(t.Context())
		sim.Node(1).Close(t.Context())
	})
	return got, log, incidents
}

func TestEqualSeedsGiveEqualRuns(t *testing.T) {
	for seed := range uint64(50) {
		faults := simcluster.RandomFaults(seed, time.Second)
		got, log, incidents := record(t, seed, faults)
		again, logAgain, incidentsAgain := record(t, seed, faults)
		if !slices.Equal(got, again) || !slices.Equal(log, logAgain) || !slices.Equal(incidents, incidentsAgain) {
			t.Errorf("seed %d gave another run, with %+v", seed, faults)
		}
	}
	faults := simcluster.Faults{Loss: 0.5}
	one, _, _ := record(t, 1, faults)
	two, _, _ := record(t, 2, faults)
	if slices.Equal(one, two) {
		t.Error("the seed makes no difference")
	}
}

// Each fault happens if it is asked for, and no other fault happens.
func TestFaultsHappen(t *testing.T) {
	const within = time.Second
	for _, c := range []struct {
		name   string
		faults simcluster.Faults
		is     func(got, log []string, incidents string) bool
	}{
		{"none", simcluster.Faults{}, func(got, log []string, incidents string) bool {
			return slices.Equal(got, log) && len(log) == 200 && incidents == ""
		}},
		{"Delay", simcluster.Faults{Delay: 50 * time.Millisecond}, func(got, log []string, _ string) bool {
			return slices.Equal(got, log) && len(log) == 200
		}},
		{"Interest", simcluster.Faults{Interest: 100 * time.Millisecond}, func(got, log []string, incidents string) bool {
			return len(got) < len(log) && slices.Equal(got, log[len(log)-len(got):]) && strings.Contains(incidents, "not yet interested in")
		}},
		{"Loss", simcluster.Faults{Loss: 0.2}, func(got, log []string, incidents string) bool {
			return len(got) < len(log) && len(got)+strings.Count(incidents, "lost") == len(log)
		}},
		{"Duplicate", simcluster.Faults{Duplicate: 0.2}, func(got, log []string, _ string) bool {
			once := slices.Compact(slices.Clone(got))
			return len(got) > len(log) && slices.Equal(once, log)
		}},
		{"Overtake", simcluster.Faults{Overtake: 0.5, Delay: 50 * time.Millisecond}, func(got, log []string, _ string) bool {
			late := slices.Clone(got)
			slices.Sort(late)
			sorted := slices.Clone(log)
			slices.Sort(sorted)
			return !slices.Equal(got, log) && slices.Equal(late, sorted)
		}},
		{"NoPrev", simcluster.Faults{NoPrev: 0.5}, func(got, log []string, _ string) bool {
			return len(got) == len(log) && !slices.Equal(got, log)
		}},
		{"Announce", simcluster.Faults{Loss: 0.2, Announce: 1}, func(got, log []string, incidents string) bool {
			return strings.Contains(strings.Join(got, "\n"), "lost t") && strings.Contains(incidents, "announced")
		}},
		{"Refuse", simcluster.Faults{Refuse: 0.2}, func(_, log []string, incidents string) bool {
			return len(log) < 200 && strings.Contains(incidents, "refused: Publish")
		}},
		{"Unsure", simcluster.Faults{Unsure: 0.2}, func(got, log []string, incidents string) bool {
			return len(log) == 200 && slices.Equal(got, log) && strings.Contains(incidents, "unsure of")
		}},
		{"Cuts", simcluster.Faults{Cuts: 5, Break: within, Within: within, Announce: 1}, func(got, log []string, incidents string) bool {
			return len(got) < 200 && strings.Contains(incidents, "deaf to") && strings.Contains(strings.Join(got, "\n"), "lost ")
		}},
		{"Outages", simcluster.Faults{Outages: 2, Break: within, Within: within}, func(_, log []string, incidents string) bool {
			return len(log) < 200 && strings.Contains(incidents, "outage: Publish")
		}},
		{"Trims", simcluster.Faults{Trims: 5, Within: within}, func(got, log []string, incidents string) bool {
			return slices.Equal(got, log) && strings.Contains(incidents, "trimmed")
		}},
		{"Resets", simcluster.Faults{Resets: 3, Within: within}, func(got, log []string, incidents string) bool {
			first, last := strings.Fields(log[0]), strings.Fields(log[len(log)-1])
			return slices.Equal(got, log) && strings.Contains(incidents, "reset") && first[1] != last[1]
		}},
		{"Ends", simcluster.Faults{Ends: 3, Within: within}, func(got, log []string, incidents string) bool {
			first, last := strings.Fields(log[0]), strings.Fields(log[len(log)-1])
			return slices.Equal(got, log) && strings.Contains(incidents, "end lost") && first[1] != last[1] && last[2] != "200"
		}},
		{"Sparse", simcluster.Faults{Sparse: true}, func(got, log []string, _ string) bool {
			return slices.Equal(got, log) && !strings.HasSuffix(log[100], " 101 100")
		}},
	} {
		got, log, incidents := record(t, 7, c.faults)
		if !c.is(got, log, strings.Join(incidents, "\n")) {
			t.Errorf("%s: %d of %d came; %q", c.name, len(got), len(log), incidents)
		}
	}
}

// The copies that answer reads lag, and the pages say how far they reach. Last does not lag.
func TestCopiesLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simcluster.NewSim(1, 1, simcluster.Faults{Lag: 100 * time.Millisecond})
		n := sim.Node(0)
		n.Start(&tape{})
		lagged := 0
		for i := range 100 {
			at, err := n.Publish(t.Context(), "t", fmt.Append(nil, i), broker.PublishOptions{History: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if last, err := n.(broker.Recoverer).Last(t.Context(), "t"); err != nil || last != at {
				t.Fatal(last, at, err)
			}
			page, err := n.(broker.Recoverer).Read(t.Context(), "t", 0, at.Offset, 1000)
			if err != nil || len(page.Publications) != int(page.Upto) || !page.Complete {
				t.Fatalf("%+v, %v", page, err)
			}
			if page.Upto < at.Offset {
				lagged++
			}
			time.Sleep(5 * time.Millisecond)
		}
		if lagged < 50 {
			t.Errorf("%d reads of 100 lagged", lagged)
		}
		sim.Heal()
		if page, _ := n.(broker.Recoverer).Read(t.Context(), "t", 0, 1000, 1000); page.Upto != 100 {
			t.Errorf("a healed copy reaches to %d", page.Upto)
		}
	})
}

// Pages end early, and say where. A caller that reads on from there gets all publications, once
// and in order.
func TestPagesAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simcluster.NewSim(1, 1, simcluster.Faults{Cut: 0.5, Sparse: true})
		n := sim.Node(0).(broker.Recoverer)
		sim.Node(0).Start(&tape{})
		for i := range 100 {
			data := fmt.Appendf(nil, `[%d,"%s"]`, i, strings.Repeat("x", 8<<10))
			if _, err := sim.Node(0).Publish(t.Context(), "t", data, broker.PublishOptions{History: 50}); err != nil {
				t.Fatal(err)
			}
		}
		log := sim.Log("t")
		newest := log[99].Offset
		check := func(page broker.Page, from, want int) (cut bool) {
			t.Helper()
			got := len(page.Publications)
			if got == 0 || got > want || page.Publications[0] != log[from].Publication || !page.Complete {
				t.Fatalf("a page of %d: %+v", want, page)
			}
			if cut = got < want; cut && page.Upto != log[from+got-1].Offset || !cut && from+got == 100 && page.Upto != newest {
				t.Fatalf("a page of %d has %d, and ends at %d", want, got, page.Upto)
			}
			return cut
		}
		cuts := 0
		for range 100 {
			page, err := n.Tail(t.Context(), "t", 30)
			if err != nil {
				t.Fatal(err)
			}
			if check(page, 70, 30) {
				cuts++
				if len(page.Publications) < 16 {
					t.Fatalf("a tail of %d was cut", len(page.Publications))
				}
			}
			for next := 70 + len(page.Publications); next < 100; next += len(page.Publications) {
				if page, err = n.Read(t.Context(), "t", page.Upto, newest, 20); err != nil {
					t.Fatal(err)
				}
				if check(page, next, min(20, 100-next)) {
					cuts++
				}
			}
		}
		if cuts < 50 {
			t.Errorf("%d pages were cut", cuts)
		}
		sim.Heal()
		if page, _ := n.Read(t.Context(), "t", log[50].Offset, newest, 1000); len(page.Publications) != 49 {
			t.Errorf("a page of a healed cluster has %d publications", len(page.Publications))
		}
	})
}

// A keyed topic forgets removals after a while. A page that lacks one of them says that it is not complete,
// unless the key has come back since.
func TestRemovalsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simcluster.NewSim(1, 1, simcluster.Faults{Forget: time.Second})
		n := sim.Node(0)
		n.Start(&tape{})
		publish := func(key string, remove bool) uint64 {
			at, err := n.Publish(t.Context(), "t", []byte("1"), broker.PublishOptions{Keyed: true, Key: key, Remove: remove, History: 10})
			if err != nil {
				t.Fatal(err)
			}
			return at.Offset
		}
		expect := func(what string, after uint64, complete bool, count int) {
			t.Helper()
			page, err := n.(broker.Recoverer).Read(t.Context(), "t", after, 100, 100)
			if err != nil || page.Complete != complete || len(page.Publications) != count {
				t.Errorf("%s: the page is %+v, %v", what, page, err)
			}
		}
		publish("stays", false)
		put := publish("a", false)
		removed := publish("a", true)
		expect("just removed", put, true, 1)
		time.Sleep(2 * time.Second)
		expect("long removed", put, false, 0)
		expect("long removed, and known", removed, true, 0)
		publish("a", false)
		expect("back again", put, true, 1)
		if values := sim.Values("t"); len(values) != 2 {
			t.Errorf("the values are %v", values)
		}
	})
}

// After Heal calls succeed and deliveries come.
func TestHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simcluster.NewSim(3, 2, simcluster.Faults{
			Refuse: 1, Loss: 1, Cuts: 10, Outages: 10, Break: time.Hour, Within: time.Millisecond,
		})
		var sink tape
		sim.Node(0).Start(&tape{})
		sim.Node(1).Start(&sink)
		time.Sleep(time.Second)
		if err := sim.Node(1).Subscribe(context.Background(), "t"); err == nil {
			t.Error("nothing is wrong")
		}
		sim.Heal()
		if err := sim.Node(1).Subscribe(context.Background(), "t"); err != nil {
			t.Error(err)
		}
		if _, err := sim.Node(0).Publish(context.Background(), "t", []byte("1"), broker.PublishOptions{}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(sink.got) != 1 {
			t.Errorf("%q came", sink.got)
		}
	})
}
