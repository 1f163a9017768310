package natsbroker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// smallDisk is a folder with its own disk. The test is skipped where it may not mount one.
func smallDisk(t testing.TB, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("a small disk has to be mounted, for which this user has no right: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill fills a disk until free is called.
func fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	hog := filepath.Join(dir, "hog")
	f, err := os.Create(hog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return func() {
		if err := os.Remove(hog); err != nil {
			t.Error(err)
		}
	}
}

// listener is a sink that counts its calls.
type listener struct {
	devNull
	mu   sync.Mutex
	lost []error
}

func (l *listener) Lost(topic string, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if topic == "" {
		l.lost = append(l.lost, cause)
	}
}

func (l *listener) heard(cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.lost {
		if errors.Is(c, cause) {
			return true
		}
	}
	return false
}

// history reads the whole topic, and fails unless it has exactly the first stored paragraphs.
func history(t testing.TB, b *Broker, want int) {
	t.Helper()
	end, err := b.Last(t.Context(), "chat.room")
	if err != nil {
		t.Fatal(err)
	}
	var got []*broker.Publication
	for after := uint64(0); after < end.Offset; {
		page, err := b.Read(t.Context(), "chat.room", after, end.Offset, 100)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Publications...)
		after = page.Upto
	}
	if len(got) != want {
		t.Fatalf("the history has %d publications, and %d were acknowledged", len(got), want)
	}
	for i, p := range got {
		if !bytes.Equal(p.Data, paragraph(i)) {
			t.Fatalf("publication %d is %.20s…", i, p.Data)
		}
	}
}

func chatOnDisk(dir string) Options {
	return Options{
		StoreDir: dir,
		Streams:  []StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}}, {Name: "OTHER", Subjects: []string{"other.>"}}},
	}
}

// A disk fills and is freed, again and again. The process needs no restart, and loses nothing
// that it has acknowledged.
func TestFullDiskHeals(t *testing.T) {
	t.Parallel()
	for name, always := range map[string]bool{"written": false, "synchronized": true} {
		t.Run(name, func(t *testing.T) { fullDiskHeals(t, always) })
	}
}

func fullDiskHeals(t *testing.T, syncAlways bool) {
	dir := smallDisk(t, 24<<20)
	book := &logBook{least: slog.LevelInfo}
	o := chatOnDisk(dir)
	o.SyncAlways = syncAlways
	o.Logger = slog.New(book)
	b := open(t, o)
	sink := &listener{}
	b.Start(sink)
	stored := 0
	var epoch string
	for round := range 3 {
		free := fill(t, dir)
		stored += publishUntilFull(t, b, stored)
		for range 10 {
			before := time.Now()
			for _, topic := range []string{"chat.room", "other.room"} {
				if _, err := b.Publish(t.Context(), topic, paragraph(0), broker.PublishOptions{}); !errors.Is(err, ErrFull) {
					t.Fatalf("round %d: Publish while the disk is full: %v", round, err)
				}
			}
			if took := time.Since(before); took > 100*time.Millisecond {
				t.Errorf("two refused publications took %v", took)
			}
		}
		if _, err := b.Publish(t.Context(), "plain", []byte("1"), broker.PublishOptions{}); err != nil {
			t.Errorf("a publication that is not stored: %v", err)
		}
		if err := notReady(b); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "free space") {
			t.Errorf("round %d: Ready says %v", round, err)
		}
		history(t, b, stored) // can be read all the time
		free()
		waitFor(t, "a publication to be stored again", func() bool {
			_, err := b.Publish(t.Context(), "chat.room", paragraph(stored), broker.PublishOptions{})
			if err != nil && !errors.Is(err, ErrFull) {
				t.Fatalf("after the disk was freed: %v", err)
			}
			return err == nil
		})
		stored++
		if err := notReady(b); err != nil {
			t.Errorf("round %d: after the disk was freed Ready says %v", round, err)
		}
		waitFor(t, "the server to be told", func() bool { return sink.heard(errMended) })
		history(t, b, stored)
		at, err := b.Last(t.Context(), "chat.room")
		if err != nil || round > 0 && at.Epoch != epoch {
			t.Errorf("round %d: the position is %v after epoch %s, %v", round, at, epoch, err)
		}
		epoch = at.Epoch
	}
	// The log is limited: one line for the three times.
	if lines := book.find("WARN"); len(lines) != 1 || !strings.Contains(lines[0], "cannot be written to") {
		t.Errorf("warned %d times: %q", len(lines), lines)
	}
	if lines := book.find("written to again"); len(lines) != 1 || !strings.HasPrefix(lines[0], "INFO") {
		t.Errorf("the end was logged %d times: %q", len(lines), lines)
	}
	if lines := book.find("ERROR"); len(lines) > 0 {
		t.Errorf("logged: %q", lines)
	}
}

// startOnDisk starts the broker of a child, on the disk of its parent.
func startOnDisk(t *testing.T) *Broker {
	t.Helper()
	b, err := New(chatOnDisk(os.Getenv("STORE")))
	if err != nil {
		t.Fatal(err)
	}
	b.Start(devNull{})
	return b
}

// numbered is a short publication.
func numbered(n int) []byte { return fmt.Appendf(nil, `"%d"`, n) }

// A process is killed again and again, near the moments in which its disk fills and is freed.
// Everything that it has acknowledged is there afterwards, in order.
func TestKilledAroundAFullDisk(t *testing.T) {
	if isChild(t) {
		b := startOnDisk(t)
		fmt.Println("ready")
		var from int
		fmt.Sscan(os.Getenv("FROM"), &from)
		for i := from; ; i++ {
			if _, err := b.Publish(t.Context(), "chat.room", numbered(i), broker.PublishOptions{}); err == nil {
				fmt.Println("stored", i)
			}
			time.Sleep(time.Millisecond)
		}
	}
	dir := smallDisk(t, 24<<20)
	hog := filepath.Join(dir, "hog")
	var acknowledged []int
	for round := range 6 {
		c := startChild(t, "STORE="+dir, fmt.Sprint("FROM=", round*1_000_000))
		lines := make(chan int, 1<<20)
		go func() { // ends with the child
			defer close(lines)
			for {
				line, err := c.out.ReadString('\n')
				var n int
				if _, failed := fmt.Sscanf(line, "stored %d", &n); failed == nil && strings.HasSuffix(line, "\n") {
					lines <- n
				}
				if err != nil {
					return
				}
			}
		}()
		next := func() bool {
			select {
			case n, ok := <-lines:
				acknowledged = append(acknowledged, n)
				return ok
			case <-time.After(patience):
				return false
			}
		}
		for range 20 {
			if !next() {
				t.Fatalf("round %d: nothing is stored any more", round)
			}
		}
		fill(t, dir)
		time.Sleep(time.Duration(round) * 150 * time.Millisecond)
		if round%2 == 1 { // with a disk that has space again, before or after the restart of JetStream
			os.Remove(hog)
			time.Sleep(time.Duration(round) * 150 * time.Millisecond)
		}
		c.Process.Kill()
		c.Wait()
		for n := range lines {
			acknowledged = append(acknowledged, n)
		}
		os.Remove(hog)
	}

	b := open(t, chatOnDisk(dir))
	end, err := b.Last(t.Context(), "chat.room")
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for after := uint64(0); after < end.Offset; {
		page, err := b.Read(t.Context(), "chat.room", after, end.Offset, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Publications {
			kept = append(kept, string(p.Data))
		}
		after = page.Upto
	}
	for _, n := range acknowledged {
		i := slices.Index(kept, string(numbered(n)))
		if i < 0 {
			t.Fatalf("publication %d was acknowledged, and is not there or not in its place", n)
		}
		kept = kept[i+1:]
	}
}

// clusterOnDisks starts n nodes, each with a disk of that many bytes.
func clusterOnDisks(t *testing.T, n, bytes int, change func(*Options)) (brokers []*Broker, dirs []string) {
	t.Helper()
	routes := livetest.FreeAddresses(t, n)
	for i := range n {
		dir := smallDisk(t, bytes)
		o := chatOnDisk(dir)
		o.Cluster, o.Logger = &Cluster{Listen: routes[i], Routes: routes}, quiet()
		change(&o)
		b, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close(context.Background()) })
		b.Start(devNull{})
		brokers, dirs = append(brokers, b), append(dirs, dir)
	}
	return brokers, dirs
}

// A stream with one replica in a cluster: no other node can take it over.
func TestFullDiskOfAStreamWithOneReplica(t *testing.T) {
	t.Parallel()
	brokers, dirs := clusterOnDisks(t, 2, 24<<20, func(o *Options) {
		o.PublishTimeout = 3 * time.Second
		for i := range o.Streams {
			o.Streams[i].Replicas = 1
		}
	})
	stored := 0
	publish := func() error {
		_, err := brokers[0].Publish(t.Context(), "chat.room", paragraph(stored), broker.PublishOptions{})
		if err == nil {
			stored++
		}
		return err
	}
	ready := func() bool { return notReady(brokers[0]) == nil && notReady(brokers[1]) == nil }
	waitFor(t, "the cluster", ready)
	frees := []func(){fill(t, dirs[0]), fill(t, dirs[1])}
	for {
		if err := publish(); errors.Is(err, live.ErrUnavailable) {
			break
		} else if err != nil {
			t.Fatalf("Publish: %v", err)
		}
	}
	waitFor(t, "a node to say that its disk is full", func() bool {
		return errors.Is(notReady(brokers[0]), ErrFull) || errors.Is(notReady(brokers[1]), ErrFull)
	})
	for _, free := range frees {
		free()
	}
	waitFor(t, "the cluster", ready)
	waitFor(t, "a publication to be stored", func() bool { return publish() == nil })
}

// Publications in progress when a disk becomes full do not wait for PublishTimeout. If the
// error says that a publication was not stored, it was not.
func TestPublishersAtOnceOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 24<<20)
	b := open(t, chatOnDisk(dir))
	b.Start(devNull{})
	free := fill(t, dir)
	const publishers = 20
	var mu sync.Mutex
	acknowledged, refused := make(map[string]bool), make(map[string]bool)
	var all sync.WaitGroup
	for p := range publishers {
		all.Go(func() {
			for i := 0; ; i++ {
				data := fmt.Appendf(nil, `"%d-%d %s"`, p, i, strings.Repeat("x", 1000))
				before := time.Now()
				_, err := b.Publish(t.Context(), "chat.room", data, broker.PublishOptions{})
				if took := time.Since(before); took > 3*time.Second {
					t.Errorf("Publish took %v", took)
				}
				mu.Lock()
				if err == nil {
					acknowledged[string(data)] = true
				} else if errors.Is(err, ErrFull) {
					refused[string(data)] = true
				}
				mu.Unlock()
				if err != nil {
					if !errors.Is(err, ErrFull) {
						t.Errorf("Publish: %v", err)
					}
					return
				}
			}
		})
	}
	all.Wait()
	free()
	waitFor(t, "the node to be ready", func() bool { return notReady(b) == nil })
	end, err := b.Last(t.Context(), "chat.room")
	if err != nil {
		t.Fatal(err)
	}
	for after := uint64(0); after < end.Offset; {
		page, err := b.Read(t.Context(), "chat.room", after, end.Offset, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page.Publications {
			delete(acknowledged, string(p.Data))
			if refused[string(p.Data)] {
				t.Errorf("%.10s… was stored, and Publish said that it was not", p.Data)
			}
		}
		after = page.Upto
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged publications are lost", len(acknowledged))
	}
}

// Close does not wait for space, and the folder can be opened again.
func TestCloseWhileADiskIsFull(t *testing.T) {
	dir := smallDisk(t, 24<<20)
	for _, wait := range []time.Duration{0, 100 * time.Millisecond, time.Second} {
		o := chatOnDisk(dir)
		o.Logger = quiet()
		b, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		b.Start(devNull{})
		free := fill(t, dir)
		publishUntilFull(t, b, 0)
		time.Sleep(wait)
		before := time.Now()
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(before); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		if _, err := b.Publish(t.Context(), "chat.room", paragraph(0), broker.PublishOptions{}); !errors.Is(err, live.ErrServerClosed) {
			t.Errorf("Publish after Close: %v", err)
		}
		free()
	}
}

// A process is killed while its disk is full, and starts again before there is space. The
// stored publications can be read. When the disk is freed, publishing works again.
func TestStartOnAFullDisk(t *testing.T) {
	if isChild(t) {
		b := startOnDisk(t)
		fmt.Println("ready")
		for i := 0; ; i++ {
			if _, err := b.Publish(t.Context(), "chat.room", paragraph(i), broker.PublishOptions{}); err != nil {
				fmt.Println("stored", i)
				break
			}
		}
		awaitParent()
		return
	}
	dir := smallDisk(t, 24<<20)
	free := fill(t, dir)
	if b, err := New(chatOnDisk(dir)); err == nil {
		b.Close(context.Background())
		t.Error("a store was made on a full disk")
	}
	free()
	hog := filepath.Join(dir, "hog")
	if err := os.WriteFile(hog, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, "STORE="+dir)
	var stored int
	waitForLine(t, c, "stored", func(line string) bool {
		_, err := fmt.Sscanf(line, "stored %d", &stored)
		return err == nil
	})
	refill := fill2(t, dir)
	c.Process.Kill()
	c.Wait()

	o := chatOnDisk(dir)
	o.Logger = quiet()
	b, err := New(o)
	if err != nil {
		t.Fatalf("New on a full disk that has a store: %v", err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	b.Start(devNull{})
	history(t, b, stored)
	if n := publishUntilFull(t, b, stored); n > 0 {
		stored += n
	}
	refill()
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a publication to be stored", func() bool {
		_, err := b.Publish(t.Context(), "chat.room", paragraph(stored), broker.PublishOptions{})
		return err == nil
	})
	stored++
	for range 500 { // more than the limit of a server that started with a full disk
		if _, err := b.Publish(t.Context(), "chat.room", paragraph(stored), broker.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
		stored++
	}
	history(t, b, stored)
}

// fill2 fills the rest of the disk beside another file.
func fill2(t testing.TB, dir string) (free func()) {
	t.Helper()
	below := filepath.Join(dir, "more")
	if err := os.Mkdir(below, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return fill(t, below)
}

// waitForLine reads the output of a child until a line is accepted.
func waitForLine(t testing.TB, c *child, what string, accept func(line string) bool) {
	t.Helper()
	for {
		line, err := c.out.ReadString('\n')
		if accept(line) {
			return
		}
		if err != nil {
			t.Fatalf("the child does not say %q: %v\n%s", what, err, c.err.String())
		}
	}
}

// This needs no right to mount: a limit on the size of files acts like a quota.
func TestFileSizeLimitHeals(t *testing.T) {
	if isChild(t) {
		b := startOnDisk(t)
		var limit syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit)
		if err != nil {
			t.Fatal(err)
		}
		limit.Cur = 200 << 10
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Println("ready")
			fmt.Println("skip", err)
			return
		}
		fmt.Println("ready")
		stored := publishUntilFull(t, b, 0)
		if err := notReady(b); !errors.Is(err, ErrFull) {
			t.Errorf("Ready says %v", err)
		}
		limit.Cur = limit.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "a publication to be stored again", func() bool {
			_, err := b.Publish(t.Context(), "chat.room", paragraph(stored), broker.PublishOptions{})
			return err == nil
		})
		history(t, b, stored+1)
		if !t.Failed() {
			fmt.Println("passed")
		}
		return
	}
	c := startChild(t, "STORE="+t.TempDir())
	waitForLine(t, c, "passed", func(line string) bool {
		if why, ok := strings.CutPrefix(line, "skip "); ok {
			t.Skip(why)
		}
		return line == "passed\n"
	})
}

// First one of three nodes has a full disk. The others store what it publishes, and it reports
// that it is not ready. Then all three have a full disk, and then none.
func TestFullDisksOfACluster(t *testing.T) {
	t.Parallel() // it mostly waits for elections
	brokers, dirs := clusterOnDisks(t, 3, 48<<20, func(o *Options) {
		o.PublishTimeout = 30 * time.Second // for elections on a busy machine
	})
	allReady := func() {
		t.Helper()
		waitFor(t, "all nodes to be ready", func() bool {
			for _, b := range brokers {
				if notReady(b) != nil {
					return false
				}
			}
			return true
		})
	}
	allReady()
	stored := 0
	publish := func(b *Broker) error {
		_, err := b.Publish(t.Context(), "chat.room", paragraph(stored), broker.PublishOptions{})
		if err == nil {
			stored++
		}
		return err
	}

	free := fill(t, dirs[0])
	waitFor(t, "the node to notice", func() bool {
		if err := publish(brokers[0]); err != nil {
			t.Fatalf("one disk of three is full: %v", err)
		}
		return errors.Is(brokers[0].mender.current(), ErrFull)
	})
	for range 20 {
		if err := publish(brokers[0]); err != nil {
			t.Fatalf("one disk of three is full: %v", err)
		}
	}
	if err := notReady(brokers[0]); !errors.Is(err, ErrFull) {
		t.Errorf("Ready of the node with the full disk says %v", err)
	}
	if err := notReady(brokers[1]); err != nil {
		t.Errorf("Ready of another node says %v", err)
	}
	free()
	allReady()

	var frees []func()
	for _, dir := range dirs {
		frees = append(frees, fill(t, dir))
	}
	waitFor(t, "Publish to say that all are full", func() bool {
		err := publish(brokers[1])
		if err != nil && !errors.Is(err, live.ErrUnavailable) {
			t.Fatalf("all disks are full: %v", err)
		}
		return errors.Is(err, ErrFull)
	})
	before := time.Now()
	if err := publish(brokers[1]); !errors.Is(err, ErrFull) || time.Since(before) > 3*time.Second {
		t.Errorf("all disks are full: after %v %v", time.Since(before), err)
	}
	for _, free := range frees {
		free()
	}
	allReady()
	waitFor(t, "a publication to be stored", func() bool { return publish(brokers[2]) == nil })
	at, err := brokers[0].Last(t.Context(), "chat.room")
	if err != nil || at.Offset < uint64(stored) {
		t.Errorf("the newest position is %v, %v, and %d were stored", at, err, stored)
	}
}

// A process starts on a full disk and has no streams yet, so NATS gives it no space at all. When
// the disk is freed, the default stream is made and publishing works.
func TestFirstStreamAfterAFullDisk(t *testing.T) {
	dir := smallDisk(t, 24<<20)
	if err := open(t, Options{StoreDir: dir}).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	free := fill(t, dir)
	b, err := New(Options{StoreDir: dir, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	b.Start(rules{devNull{}, func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
	publish := func() error {
		_, err := b.Publish(t.Context(), "room", []byte("1"), broker.PublishOptions{History: 10})
		return err
	}
	if err := publish(); !errors.Is(err, ErrFull) {
		t.Errorf("while the disk is full: %v", err)
	}
	free()
	waitFor(t, "a publication to be stored", func() bool { return publish() == nil })
}
