package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/live"
)

func TestPagesInARoomHearEachOther(t *testing.T) {
	_, url := serve(t, leaveGrace)
	ana, bo := open(t, url, "ana"), open(t, url, "bo")
	you := ana.enter("general", "Ana", 0).Data.You
	bo.enter("general", "Bo", 0)

	ana.say("general", "hello", "k1")
	own, heard := ana.wantText("hello"), bo.wantText("hello")
	if own.Data.Key != "k1" || own.Data.Person != you {
		t.Errorf("the sender cannot know its own message: %+v", own.Data)
	}
	if heard.Data.Name != "Ana" || heard.Data.Person != you || heard.Data.Via != "" {
		t.Errorf("the other was told %+v", heard.Data)
	}
}

func TestRoomsAreApart(t *testing.T) {
	_, url := serve(t, leaveGrace)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana", 0)
	bo.enter("another-room", "Bo", 0)
	ana.say("general", "not for bo", "")
	ana.wantText("not for bo")
	bo.say("another-room", "for bo", "")
	bo.wantText("for bo") // the first that he hears
}

func TestLeftRoomIsNotHeard(t *testing.T) {
	_, url := serve(t, time.Hour)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana", 0)
	bo.enter("general", "Bo", 0)
	bo.send("unsubscribe", map[string]string{"topic": "room:general"})
	bo.enter("random", "Bo", 0)
	ana.until(func(e event) bool { return e.Data.Type == "people" && e.Data.Count == 2 })
	ana.until(func(e event) bool { return e.Data.Type == "people" && e.Data.Count == 1 })
	ana.say("general", "without bo", "")
	ana.wantText("without bo")
	bo.say("random", "here", "")
	bo.wantText("here")
}

func TestPostReachesEveryone(t *testing.T) {
	_, url := serve(t, leaveGrace)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana", 0)
	bo.enter("general", "Bo", 0)
	for _, c := range []struct{ kind, body string }{
		{"application/x-www-form-urlencoded", "user=curl&text=hello+there"},
		{"application/json", `{"user":"curl","text":"hello there"}`},
		{"application/json; charset=utf-8", `{"user":" curl\n","text":" hello there "}`},
	} {
		status, answer := postTo(t, url+"/rooms/general/messages", c.kind, c.body)
		if status != http.StatusAccepted || !strings.Contains(answer, `"id":`) {
			t.Errorf("%s: %d %s", c.body, status, answer)
		}
		for _, p := range []*tab{ana, bo} {
			if e := p.wantText("hello there"); e.Data.Name != "curl" || e.Data.Via != "http" || e.Data.Person != "" {
				t.Errorf("%s: heard %+v", c.body, e.Data)
			}
		}
	}
}

func TestNewcomerGetsTheHistory(t *testing.T) {
	_, url := serve(t, leaveGrace)
	ana := open(t, url, "")
	ana.enter("general", "Ana", 0)
	for _, text := range []string{"one", "two", "three"} {
		ana.say("general", text, "")
		ana.wantText(text)
	}
	h := open(t, url, "").enter("general", "Bo", 0).Data
	if texts(h.Messages) != "one two three" || h.Gap || h.Last != h.Messages[2].ID {
		t.Errorf("the newcomer got %+v", h)
	}
	h = open(t, url, "").enter("general", "Cy", h.Messages[0].ID).Data
	if texts(h.Messages) != "two three" || h.Gap {
		t.Errorf("who had one got %+v", h)
	}
	h = open(t, url, "").enter("general", "Di", h.Last).Data
	if len(h.Messages) != 0 || h.Gap {
		t.Errorf("who had everything got %+v", h)
	}
}

func TestGapIsTold(t *testing.T) {
	chat, url := serve(t, leaveGrace)
	ana := open(t, url, "")
	empty := ana.enter("general", "Ana", 0).Data
	for i := range maxHistory + 1 {
		if _, err := chat.Say("general", message{Name: "n", Text: strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
	}
	all := open(t, url, "").enter("general", "Bo", 0).Data
	if len(all.Messages) != maxHistory || all.Messages[0].Text != "1" || all.Gap {
		t.Errorf("the newcomer got %d from %q, gap %v", len(all.Messages), all.Messages[0].Text, all.Gap)
	}
	for _, c := range []struct {
		name  string
		after int64
		gap   bool
	}{
		{"was there before the first", empty.Last, true},
		{"misses none that is kept", all.Messages[0].ID - 1, false},
		{"is of an earlier run", 1, true},
		{"is of a run with a clock ahead", all.Last + 1, true},
	} {
		h := open(t, url, "").enter("general", "Cy", c.after).Data
		if h.Gap != c.gap {
			t.Errorf("who %s: gap %v", c.name, h.Gap)
		}
		if c.gap && len(h.Messages) != maxHistory {
			t.Errorf("who %s got %d messages", c.name, len(h.Messages))
		}
	}
}

func TestNothingIsSaidTwice(t *testing.T) {
	_, url := serve(t, leaveGrace)
	ana, bo := open(t, url, "ana"), open(t, url, "")
	bo.enter("general", "Bo", 0)
	ana.enter("general", "Ana", 0)
	ana.say("general", "hello", "k1")
	bo.wantText("hello")

	again := open(t, url, "ana") // lost its connection before it heard back
	again.enter("general", "Ana", 0)
	again.say("general", "hello", "k1")
	again.say("general", "next", "k2")
	bo.wantText("next")
	bo.say("general", "same key, another person", "k2")
	bo.wantText("same key, another person")
}

func TestPeopleAreCountedOnce(t *testing.T) {
	_, url := serve(t, 20*time.Millisecond)
	bo := open(t, url, "bo")
	bo.enter("general", "Bo", 0)
	count := func(people, tabs int) {
		t.Helper()
		bo.until(func(e event) bool {
			return e.Data.Type == "people" && e.Data.Count == people && e.Data.People[0].Tabs == tabs
		})
	}
	first, second := open(t, url, "ana"), open(t, url, "ana")
	first.enter("general", "Ana", 0)
	count(2, 1)
	second.enter("general", "Ana", 0)
	count(2, 2)
	second.enter("general", "Ana", 0) // again, as after a reconnect that the server did not notice
	count(2, 2)
	first.ws.CloseNow()
	count(2, 1)
	second.ws.CloseNow()
	count(1, 1)
}

func TestReloadIsNoLeaving(t *testing.T) {
	_, url := serve(t, time.Hour)
	bo := open(t, url, "")
	bo.enter("general", "Bo", 0)
	ana := open(t, url, "ana")
	ana.enter("general", "Ana", 0)
	bo.until(func(e event) bool { return e.Data.Count == 2 })

	ana.ws.CloseNow()
	open(t, url, "ana").enter("general", "Anna", 0)
	bo.until(func(e event) bool {
		if e.Data.Type == "people" && e.Data.Count != 2 {
			t.Errorf("%d here during the reload", e.Data.Count)
		}
		return e.Data.Count == 2 && e.Data.People[0].Name == "Anna"
	})
}

func TestGraceBeginsWithTheLastTab(t *testing.T) {
	r := newRoom("general", 1)
	gone := func(after time.Duration, want bool) {
		t.Helper()
		if got := r.forget("ana", after); got != want {
			t.Errorf("forgotten after %v: %v", after, got)
		}
	}
	r.enter("ana", "Ana", true)
	r.enter("ana", "Ana", true)
	r.leave("ana")
	gone(0, false)
	r.leave("ana")
	gone(time.Hour, false)
	gone(0, true)
	gone(0, false)
}

func TestRenameIsSeenByAll(t *testing.T) {
	_, url := serve(t, leaveGrace)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana", 0)
	bo.enter("general", "Bo", 0)
	ana.send("rename", map[string]string{"name": "Zoe"})
	bo.until(func(e event) bool { return e.Data.Count == 2 && e.Data.People[1].Name == "Zoe" })
	ana.say("general", "hi", "")
	if e := bo.wantText("hi"); e.Data.Name != "Zoe" {
		t.Errorf("said by %q", e.Data.Name)
	}
}

func TestInvalidInputIsRefused(t *testing.T) {
	chat, url := serve(t, leaveGrace)
	ana := open(t, url, "")
	ana.enter("general", "Ana", 0)
	long := strings.Repeat("é", maxText+1)

	for _, c := range []struct {
		topic string
		data  any
		want  error
	}{
		{"subscribe", map[string]string{"topic": "room:No Room", "name": "Ana"}, errRoomName},
		{"subscribe", map[string]string{"topic": "room:", "name": "Ana"}, errRoomName},
		{"subscribe", map[string]string{"topic": "job:build", "name": "Ana"}, errNoRoom},
		{"subscribe", map[string]string{"topic": "room:random", "name": "\u202e \u0000"}, errNoName},
		{"subscribe", map[string]string{"topic": "room:random", "name": long}, errLongName},
		{"rename", map[string]string{"name": "\u200b"}, errNoName},
		{"publish", map[string]string{"topic": "elsewhere"}, errNoRoom},
		{"subscribe", "text", nil},
		{"dance", nil, nil},
	} {
		ana.send(c.topic, c.data)
		e := ana.next("error")
		if c.want != nil && e.Data.Message != c.want.Error() || e.Data.Message == "" {
			t.Errorf("%s %v: was told %q", c.topic, c.data, e.Data.Message)
		}
	}

	for _, c := range []struct {
		room, text, key string
		want            error
	}{
		{"general", " \n ", "k", errNoText},
		{"general", long, "k", errLongText},
		{"general", "hi", strings.Repeat("k", maxKey+1), errLongKey},
		{"random", "hi", "k", errNotInRoom},
	} {
		ana.say(c.room, c.text, c.key)
		if e := ana.next("refused"); e.Data.Reason != c.want.Error() || e.Data.Key != c.key {
			t.Errorf("%.20q in %s: was told %q", c.text, c.room, e.Data.Reason)
		}
	}
	if said := chat.History("general"); len(said) != 0 {
		t.Errorf("%d messages were taken", len(said))
	}
	ana.say("general", strings.Repeat("é", maxText), "") // and she is still connected
	ana.next("message")
}

func TestInvalidPostIsRefused(t *testing.T) {
	chat, url := serve(t, leaveGrace)
	const form, json = "application/x-www-form-urlencoded", "application/json"
	for _, c := range []struct {
		room, kind, body string
		status           int
		want             string
	}{
		{"general", form, "user=curl", 400, errNoText.Error()},
		{"general", form, "text=hi", 400, errNoName.Error()},
		{"general", form, "user=" + strings.Repeat("x", maxName+1) + "&text=hi", 400, errLongName.Error()},
		{"general", form, "user=curl&text=" + strings.Repeat("x", maxText+1), 400, errLongText.Error()},
		{"general", form, "user=curl&text=" + strings.Repeat("x", maxBody), 413, errLongText.Error()},
		{"general", form, "user=%zz", 400, "not understood"},
		{"general", json, `{"user":"curl"`, 400, "not understood"},
		{"general", json, `["curl"]`, 400, "not understood"},
		{"general", "text/plain", "hi", 415, "send a form or JSON"},
		{"General", form, "user=curl&text=hi", 404, errRoomName.Error()},
		{"%2e%2e", form, "user=curl&text=hi", 404, ""},
	} {
		status, answer := postTo(t, url+"/rooms/"+c.room+"/messages", c.kind, c.body)
		if status != c.status || !strings.Contains(answer, c.want) {
			t.Errorf("%s %.40s: %d %s, want %d %s", c.room, c.body, status, answer, c.status, c.want)
		}
	}
	if said := chat.History("general"); len(said) != 0 {
		t.Errorf("%d messages were taken", len(said))
	}
}

func TestOtherSitesMayNotPost(t *testing.T) {
	_, url := serve(t, leaveGrace)
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://elsewhere.example"}} {
		req, err := http.NewRequest("POST", url+"/rooms/general/messages", strings.NewReader("user=a&text=b"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set(header[0], header[1])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %d", header, resp.StatusCode)
		}
	}
}

func TestPageLoadsFromHereAlone(t *testing.T) {
	_, url := serve(t, leaveGrace)
	for _, path := range []string{"/", "/page/chat.js", "/page/log.js", "/page/me.js", "/page/room.js", "/page/chat.css",
		"/page/icon.svg", "/live.js", "/rooms/general/messages"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d, %v", path, resp.StatusCode, err)
		}
		policy := resp.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy is %q", path, policy)
		}
		for line := range strings.Lines(strings.ReplaceAll(string(body), "http://www.w3.org/", "")) {
			if path != "/live.js" && (strings.Contains(line, "http://") || strings.Contains(line, "https://")) {
				t.Errorf("%s leads elsewhere: %s", path, line)
			}
		}
		cookies := resp.Cookies()
		if path != "/" {
			continue
		}
		if len(cookies) != 1 || !cookies[0].HttpOnly || len(cookies[0].Value) < 20 {
			t.Errorf("the page set %v", cookies)
		}
	}
}

func TestRoomsAreBounded(t *testing.T) {
	chat, url := serve(t, leaveGrace)
	ana := open(t, url, "")
	ana.enter("ours", "Ana", 0)
	for i := range 2 * maxRooms {
		if _, err := chat.Say(fmt.Sprint("room-", i), message{Name: "n", Text: "t"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(chat.rooms) != maxRooms {
		t.Errorf("%d rooms", len(chat.rooms))
	}
	for _, name := range append([]string{"ours"}, readyRooms...) {
		if chat.rooms[name] == nil {
			t.Errorf("%s is gone", name)
		}
	}
}

func TestBuildsArePublished(t *testing.T) {
	chat, url := serve(t, leaveGrace)
	ana := open(t, url, "")
	ana.enter(buildRoom, "Ana", 0)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		chat.RunBuilds(ctx, time.Millisecond)
	}()
	ana.until(func(e event) bool { return e.Topic == buildTopic && e.Data.Number == 1 && e.Data.Progress == 48 })
	ana.until(func(e event) bool { return e.Topic == buildTopic && e.Data.Progress == 100 })
	e := ana.next("message")
	if !strings.HasPrefix(e.Data.Text, "Build #1 passed") || e.Data.Via != "job" {
		t.Errorf("was told %+v", e.Data)
	}
	// Who comes between two steps need not wait for the next.
	if e := open(t, url, "").next(buildTopic); e.Data.Number == 0 {
		t.Errorf("the newcomer was told %+v", e.Data)
	}
	stop()
	<-ended
}

func TestShutdownSendsPagesAway(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	out, printed := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, "127.0.0.1:0", printed) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out) // ends with the pipe
	defer out.Close()
	url := strings.TrimSpace(strings.TrimPrefix(line, "Chat: "))

	ana := open(t, url, "")
	ana.enter("general", "Ana", 0)
	begun := time.Now()
	stop()
	ana.awaitEnd()
	var closed websocket.CloseError
	if !errors.As(ana.ended, &closed) || closed.Code != live.CloseRestart || !strings.Contains(closed.Reason, "return within") {
		t.Errorf("the page was told %v", ana.ended)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > shutdownTimeout {
		t.Errorf("it took %v", took)
	}
	if _, err := http.Get(url); err == nil {
		t.Error("it still answers")
	}
}

func TestNamesAndTextsAreCleaned(t *testing.T) {
	for _, c := range []struct{ in, name, text string }{
		{"  Ana\t Maria \n", "Ana Maria", "Ana\t Maria"},
		{"a\r\nb\x00\x1b[31m", "a b[31m", "a\nb[31m"},
		{"a\u202eb\u2066c", "abc", "abc"},
		{"a\xffb", "a\uFFFDb", "a\uFFFDb"},
		{"👩\u200d👩\u200d👧 family", "👩\u200d👩\u200d👧 family", "👩\u200d👩\u200d👧 family"},
		{"<b>&amp;</b>", "<b>&amp;</b>", "<b>&amp;</b>"},
		{"a\u2028b", "a b", "a\u2028b"},
	} {
		if got, err := cleanName(c.in); got != c.name || err != nil {
			t.Errorf("the name %q became %q, %v", c.in, got, err)
		}
		if got, err := cleanText(c.in); got != c.text || err != nil {
			t.Errorf("the text %q became %q, %v", c.in, got, err)
		}
	}
}
