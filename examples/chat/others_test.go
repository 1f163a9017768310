package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/livetopic/livetopic/live/natsbroker"
)

// Several instances on one NATS.

// quick is a grace for tests in which something must be forgotten, slow for those in which
// nothing may.
const quick, slow = 20 * time.Millisecond, time.Hour

// startNATS starts a server that is no part of the chat, and returns what leads there.
func startNATS(t *testing.T) natsbroker.Options { return optionsFor(runNATS(t)) }

func optionsFor(s *server.Server) natsbroker.Options {
	return natsbroker.Options{Servers: []string{s.ClientURL()}}
}

func runNATS(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("NATS does not start")
	}
	return s
}

// die cuts the instance off from NATS without a word, as the end of its machine does.
func (c *Chat) die() { c.live.Broker().(*natsbroker.Broker).NATSConn().Close() }

func TestInstancesShareTheirRooms(t *testing.T) {
	nats := startNATS(t)
	_, urlA := serveOn(t, nats, slow)
	_, urlB := serveOn(t, nats, slow)
	ana, bo := open(t, urlA, "ana"), open(t, urlB, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	const each = 20
	for i := range each {
		ana.say("general", fmt.Sprint("a", i), "")
		bo.say("general", fmt.Sprint("b", i), "")
	}
	var heard [2][]string
	for i, p := range []*tab{ana, bo} {
		for range 2 * each {
			e := p.until(func(e event) bool { return e.is(roomPrefix) })
			heard[i] = append(heard[i], e.Data.Text)
		}
	}
	if !slices.Equal(heard[0], heard[1]) {
		t.Errorf("one has heard %v,\nthe other %v", heard[0], heard[1])
	}
	for _, who := range []string{"a", "b"} {
		var theirs, want []string
		for i := range each {
			want = append(want, fmt.Sprint(who, i))
		}
		for _, text := range heard[0] {
			if strings.HasPrefix(text, who) {
				theirs = append(theirs, text)
			}
		}
		if !slices.Equal(theirs, want) {
			t.Errorf("heard %v", theirs)
		}
	}
}

func TestPageGoesOnAtAnotherInstance(t *testing.T) {
	nats := startNATS(t)
	chatA, urlA := serveOn(t, nats, slow)
	chatB, urlB := serveOn(t, nats, slow)
	ana, bo := open(t, urlA, "ana"), open(t, urlB, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	ana.say("general", "heard", "")
	seen := ana.wantText("heard").At
	bo.wantText("heard")
	chatA.die()
	for _, text := range []string{"missed", "missed too"} {
		if _, err := chatB.Say("general", message{Name: "n", Text: text}); err != nil {
			t.Fatal(err)
		}
		bo.wantText(text)
	}
	again := open(t, urlB, "ana")
	if e := again.ask("subscribe", "room:general", object{"since": seen}); !e.Recovered || texts(e) != "missed missed too" {
		t.Errorf("the page got %q, recovered %v", texts(e), e.Recovered)
	}
	bo.say("general", "next", "")
	again.wantText("next")
}

func TestSentToTwoInstancesIsSaidOnce(t *testing.T) {
	nats := startNATS(t)
	chatA, urlA := serveOn(t, nats, slow)
	_, urlB := serveOn(t, nats, slow)
	ana, again := open(t, urlA, "ana"), open(t, urlB, "ana")
	ana.enter("general", "Ana")
	again.enter("general", "Ana")
	ana.say("general", "hello", "k1")
	ana.wantText("hello")
	id := again.say("general", "hello", "k1") // as if its line to A had broken meanwhile
	if e := again.until(func(e event) bool { return e.ID == id }); e.Op != "reply" {
		t.Errorf("was told %+v", e)
	}
	if all := said(t, chatA, "general"); len(all) != 1 {
		t.Errorf("it is said %d times", len(all))
	}
}

func TestSentManyTimesAtOnceIsSaidOnce(t *testing.T) {
	chat, _ := serve(t, longGrace)
	var sending sync.WaitGroup
	for range 20 {
		sending.Go(func() {
			if _, err := chat.Say("general", message{Person: "p", Name: "n", Text: "hello", Key: "k"}); err != nil {
				t.Error(err)
			}
		})
	}
	sending.Wait()
	if all := said(t, chat, "general"); len(all) != 1 {
		t.Errorf("it is said %d times", len(all))
	}
	if len(chat.saying) != 0 {
		t.Error("it is remembered for ever")
	}
}

func TestPeopleOfAllInstancesAreListed(t *testing.T) {
	nats := startNATS(t)
	_, urlA := serveOn(t, nats, quick)
	_, urlB := serveOn(t, nats, quick)
	ana, bo := open(t, urlA, "ana"), open(t, urlB, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	both := func(want string) {
		t.Helper()
		for _, p := range []*tab{ana, bo} {
			p.untilHere(want)
		}
	}
	both("2: Ana Bo")
	elsewhere := open(t, urlB, "ana") // another tab of hers, at the other instance
	elsewhere.enter("general", "Ana")
	both("2: Ana(2) Bo")
	bo.shows(info{Name: "Bob"})
	both("2: Ana(2) Bob")
	elsewhere.ws.CloseNow()
	both("2: Ana Bob")
	carl := open(t, urlB, "carl")
	carl.enter("random", "Carl") // another room
	carl.enter("general", "Carl")
	both("3: Ana Bob Carl")
	carl.ws.CloseNow()
	both("2: Ana Bob")
}

// At a deploy pages go from one instance to another, which is no leaving.
func TestPeopleOfAnInstanceThatEndsMayComeBack(t *testing.T) {
	nats := startNATS(t)
	_, urlA := serveOn(t, nats, quick)
	chatB, urlB := serveOn(t, nats, quick)
	ana, bo := open(t, urlA, "ana"), open(t, urlB, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	open(t, urlB, "carl").enter("general", "Carl")
	ana.untilHere("3: Ana Bo Carl")
	if err := chatB.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	open(t, urlA, "bo").enter("general", "Bo")
	ana.until(func(event) bool {
		if !strings.Contains(ana.list(), "Bo") {
			t.Error("who has come back seemed to leave")
		}
		return ana.list() == "2: Ana Bo"
	})
}

func TestPageIsToldWhenNothingCanBeKept(t *testing.T) {
	nats := runNATS(t)
	chat, url := serveOn(t, optionsFor(nats), slow)
	ana := open(t, url, "ana")
	ana.enter("general", "Ana")
	nats.Shutdown()
	id := ana.say("general", "hello", "k1")
	if e := ana.until(func(e event) bool { return e.ID == id }); e.Code != "unavailable" {
		t.Errorf("was told %+v", e)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := chat.History(ctx, "general"); err == nil {
		t.Error("there is a history")
	}
}
