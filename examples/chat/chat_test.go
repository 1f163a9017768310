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

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// longGrace is for tests in which nobody must be forgotten.
const longGrace = 3 * time.Second

func TestPagesInARoomHearEachOther(t *testing.T) {
	_, url := serve(t, longGrace)
	ana, bo := open(t, url, "ana"), open(t, url, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	you := ana.ask("request", "me", object{"data": object{}}).Data.You

	ana.say("general", "hello", "k1")
	own, heard := ana.wantText("hello"), bo.wantText("hello")
	if own.Data.Key != "k1" || own.Data.Person != you || you == "" {
		t.Errorf("the sender cannot know its own message: %+v", own.Data)
	}
	if heard.Data.Name != "Ana" || heard.Data.Person != you || heard.Data.Via != "" {
		t.Errorf("the other was told %+v", heard.Data)
	}
}

func TestRoomsAreApart(t *testing.T) {
	_, url := serve(t, longGrace)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana")
	bo.enter("another-room", "Bo")
	ana.say("general", "not for bo", "")
	ana.wantText("not for bo")
	bo.say("another-room", "for bo", "")
	bo.wantText("for bo") // the first that he hears
}

func TestLeftRoomIsNotHeard(t *testing.T) {
	_, url := serve(t, 20*time.Millisecond)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	ana.untilHere("2: Ana Bo")
	bo.enter("random", "Bo") // and leaves general
	ana.untilHere("1: Ana")
	ana.say("general", "without bo", "")
	ana.wantText("without bo")
	bo.say("random", "here", "")
	bo.wantText("here")
}

func TestPostReachesEveryone(t *testing.T) {
	_, url := serve(t, longGrace)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	for _, data := range []string{
		`{"name":"curl","text":"hello there"}`,
		`{"name":" curl\n","text":" hello there ","person":"ana","via":"job","time":"2000-01-01T00:00:00Z"}`,
	} {
		status, answer := publish(t, url, roomPrefix+"general", data)
		if status != http.StatusAccepted || !strings.Contains(answer, `"at":`) {
			t.Errorf("%s: %d %s", data, status, answer)
		}
		for _, p := range []*tab{ana, bo} {
			if e := p.wantText("hello there"); e.Data.Name != "curl" || e.Data.Via != "http" || e.Data.Person != "" || e.Data.Key == "" {
				t.Errorf("%s: heard %+v", data, e.Data)
			}
		}
	}
}

func TestNewcomerGetsTheHistory(t *testing.T) {
	_, url := serve(t, longGrace)
	ana := open(t, url, "")
	ana.enter("general", "Ana")
	for _, text := range []string{"one", "two", "three"} {
		ana.say("general", text, "")
		ana.wantText(text)
	}
	if e := open(t, url, "").enter("general", "Bo"); texts(e) != "one two three" {
		t.Errorf("the newcomer got %+v", e)
	}
}

func TestReturnerGetsWhatItMissed(t *testing.T) {
	chat, url := serve(t, longGrace)
	ana := open(t, url, "ana")
	ana.enter("general", "Ana")
	ana.say("general", "heard", "")
	seen := ana.wantText("heard").At
	ana.ws.CloseNow()
	bo := open(t, url, "") // what he has heard is there for who comes back
	bo.enter("general", "Bo")
	back := func() event {
		t.Helper()
		return open(t, url, "ana").ask("subscribe", "room:general", object{"since": seen})
	}

	if e := back(); !e.Recovered || len(e.Messages) != 0 {
		t.Errorf("who missed nothing got %+v", e)
	}
	for i := range maxHistory {
		if _, err := chat.Say("general", message{Name: "n", Text: strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
		bo.wantText(strconv.Itoa(i))
	}
	if e := back(); !e.Recovered || len(e.Messages) != maxHistory || e.Messages[0].Data.Text != "0" {
		t.Errorf("who missed all that is kept got %d, recovered %v", len(e.Messages), e.Recovered)
	}
	if _, err := chat.Say("general", message{Name: "n", Text: "one too many"}); err != nil {
		t.Fatal(err)
	}
	bo.wantText("one too many")
	if e := back(); e.Recovered {
		t.Errorf("who missed more was not told, and got %d", len(e.Messages))
	}
}

func TestNothingIsSaidTwice(t *testing.T) {
	_, url := serve(t, longGrace)
	ana, bo := open(t, url, "ana"), open(t, url, "")
	bo.enter("general", "Bo")
	ana.enter("general", "Ana")
	ana.say("general", "hello", "k1")
	bo.wantText("hello")

	again := open(t, url, "ana") // lost its connection before it heard back
	again.enter("general", "Ana")
	id := again.say("general", "hello", "k1")
	if e := again.until(func(e event) bool { return e.ID == id }); e.Op != "reply" {
		t.Errorf("who sent it again was told %+v", e)
	}
	again.say("general", "next", "k2")
	bo.wantText("next")
	bo.say("general", "same key, another person", "k2")
	bo.wantText("same key, another person")
}

func TestPeopleAreCountedOnce(t *testing.T) {
	_, url := serve(t, 20*time.Millisecond)
	bo := open(t, url, "bo")
	bo.enter("general", "Bo")
	first, second := open(t, url, "ana"), open(t, url, "ana")
	first.enter("general", "Ana")
	bo.untilHere("2: Ana Bo")
	second.enter("general", "Ana")
	bo.untilHere("2: Ana(2) Bo")
	first.ws.CloseNow()
	bo.untilHere("2: Ana Bo")
	second.ws.CloseNow()
	bo.untilHere("1: Bo")
}

func TestReloadIsNoLeaving(t *testing.T) {
	chat, url := serve(t, time.Hour)
	bo := open(t, url, "")
	bo.enter("general", "Bo")
	ana := open(t, url, "ana")
	ana.enter("general", "Ana")
	bo.untilHere("2: Ana Bo")

	ana.ws.CloseNow()
	livetest.Eventually(t, "the server has noticed", func() bool { return chat.live.Stats().Sessions == 1 }) // else Ana would be here twice
	open(t, url, "ana").enter("general", "Anna")
	bo.until(func(event) bool {
		if len(bo.people) != 2 {
			t.Errorf("%s during the reload", bo.list())
		}
		return bo.list() == "2: Anna Bo"
	})
}

func TestOthersSeeWhoIsTyping(t *testing.T) {
	_, url := serve(t, longGrace)
	ana, bo := open(t, url, "ana"), open(t, url, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	typing := func(want bool) {
		t.Helper()
		bo.until(func(e event) bool {
			return e.Op == "presence" && len(e.Changed) == 1 && e.Changed[0].Sessions[0].Typing == want
		})
	}
	bo.untilHere("2: Ana Bo")
	ana.shows(info{Name: "Ana", Typing: true})
	typing(true)
	ana.shows(info{Name: "Ana"})
	typing(false)
}

func TestRenameIsSeenByAll(t *testing.T) {
	_, url := serve(t, longGrace)
	ana, bo := open(t, url, ""), open(t, url, "")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	ana.shows(info{Name: "Zoe"})
	bo.untilHere("2: Bo Zoe")
	ana.say("general", "hi", "")
	if e := bo.wantText("hi"); e.Data.Name != "Zoe" {
		t.Errorf("said by %q", e.Data.Name)
	}
}

func TestInvalidInputIsRefused(t *testing.T) {
	chat, url := serve(t, longGrace)
	ana := open(t, url, "")
	long := strings.Repeat("é", maxText+1)
	key := strings.Repeat("k", maxKey+1)

	for _, c := range []struct {
		op, topic string
		data      any
		want      error
	}{
		{"request", "say", object{"room": "general", "text": "nobody yet"}, errNoName},
		{"present", "room:general", object{"name": "Ana"}, nil},
		{"subscribe", "room:No Room", nil, errRoomName},
		{"subscribe", "room:", nil, errRoomName},
		{"subscribe", "people:general", nil, errNoTopic},
		{"subscribe", "job:secret", nil, errNoTopic},
		{"history", "general", nil, errNoTopic},
		{"present", "room:general", object{"name": "\u202e \u0000"}, errNoName},
		{"present", "room:general", object{"name": long[:2*maxName+2]}, errLongName},
		{"present", "room:general", object{"name": "\u200b"}, errNoName},
		{"present", "room:general", "Ana", errUnclear},
		{"request", "say", object{"room": "general", "text": " \n "}, errNoText},
		{"request", "say", object{"room": "general", "text": long}, errLongText},
		{"request", "say", object{"room": "general", "text": "hi", "key": key}, errLongKey},
		{"request", "say", object{"room": "elsewhere/", "text": "hi"}, errRoomName},
		{"request", "say", "text", errUnclear},
		{"request", "dance", object{}, errUnclear},
		{"request", "dance", nil, errUnclear},
	} {
		e := ana.ask(c.op, c.topic, object{"data": c.data, "info": c.data, "limit": 1})
		var told error
		if e.Op == "error" {
			told = refusal(e.Message)
		}
		if fmt.Sprint(told) != fmt.Sprint(c.want) {
			t.Errorf("%s %s %v: was told %+v", c.op, c.topic, c.data, e)
		}
	}
	if e := ana.ask("publish", "room:general", object{"data": message{Text: "hi"}}); e.Code != "forbidden" {
		t.Errorf("who went around the checks was told %+v", e)
	}
	if all := said(t, chat, "general"); len(all) != 0 {
		t.Errorf("%d messages were taken", len(all))
	}
	longest := object{"room": "general", "text": strings.Repeat("é", maxText)}
	if e := ana.ask("request", "say", object{"data": longest}); e.Op != "reply" {
		t.Errorf("the longest text was refused: %s", e.Message)
	}
}

func TestInvalidPostIsRefused(t *testing.T) {
	chat, url := serve(t, longGrace)
	for _, c := range []struct {
		topic, data string
		status      int
		want        string
	}{
		{"room:general", `{"name":"curl"}`, 403, errNoText.Message},
		{"room:general", `{"text":"hi"}`, 403, errNoName.Message},
		{"room:general", `{"name":"` + strings.Repeat("x", maxName+1) + `","text":"hi"}`, 403, errLongName.Message},
		{"room:general", `{"name":"curl","text":"` + strings.Repeat("x", maxText+1) + `"}`, 403, errLongText.Message},
		{"room:general", `{"name":"curl","text":"` + strings.Repeat("x", maxBody) + `"}`, 413, "too_big"},
		{"room:general", `{"name":"curl"`, 400, "not JSON"},
		{"room:general", `["curl"]`, 403, errUnclear.Message},
		{"room:General", `{"name":"curl","text":"hi"}`, 403, errRoomName.Message},
		{"room:..", `{"name":"curl","text":"hi"}`, 403, errRoomName.Message},
		{buildTopic, `{"name":"curl","text":"hi"}`, 403, errNoTopic.Message},
	} {
		status, answer := publish(t, url, c.topic, c.data)
		if status != c.status || !strings.Contains(answer, c.want) {
			t.Errorf("%s %.40s: %d %s, want %d %s", c.topic, c.data, status, answer, c.status, c.want)
		}
	}
	if all := said(t, chat, "general"); len(all) != 0 {
		t.Errorf("%d messages were taken", len(all))
	}
}

func TestOtherSitesMayNotPost(t *testing.T) {
	_, url := serve(t, longGrace)
	for _, header := range [][2]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://elsewhere.example"}} {
		req, err := http.NewRequest("POST", url+"/publish", strings.NewReader(`{"topic":"room:general","data":{"name":"a","text":"b"}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
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
	_, url := serve(t, longGrace)
	for _, path := range []string{"/", "/page/chat.js", "/page/log.js", "/page/me.js", "/page/room.js", "/page/line.js", "/page/chat.css",
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

func TestNewestMessagesAreKept(t *testing.T) {
	bounded := streams()
	bounded[0].MaxMsgs = 10 // as if it were maxMessages
	chat, _ := serveOn(t, natsbroker.Options{Streams: bounded}, longGrace)
	for i := range 20 {
		if _, err := chat.Say(fmt.Sprint("room-", i), message{Name: "n", Text: "t"}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if n := len(said(t, chat, fmt.Sprint("room-", i))); n != i/10 {
			t.Errorf("room %d has %d messages", i, n)
		}
	}
	if n := streams()[0].MaxMsgs; n != maxMessages {
		t.Errorf("%d messages are kept", n)
	}
}

func TestRoomsAreBounded(t *testing.T) {
	chat, url := serve(t, longGrace)
	open(t, url, "").enter("ours", "Ana")
	var pages []*tab
	for i := 0; ; i++ {
		if i%maxTabTopics == 0 {
			pages = append(pages, open(t, url, ""))
		}
		room, page := fmt.Sprint("full-", i), pages[len(pages)-1]
		if page.ask("subscribe", roomPrefix+room, nil).Op == "error" {
			break
		}
		if i > maxRooms {
			t.Fatalf("%d rooms were made", i)
		}
	}
	if _, err := chat.Say("another", message{Name: "n", Text: "t"}); err != errTaken {
		t.Errorf("one more room: %v", err)
	}
	for _, room := range []string{"general", "ours"} {
		if e := open(t, url, "").ask("subscribe", roomPrefix+room, nil); e.Op == "error" {
			t.Errorf("%s: %s", room, e.Message)
		}
	}
}

func TestBuildsArePublished(t *testing.T) {
	chat, url := serve(t, longGrace)
	ana := open(t, url, "")
	ana.enter(buildRoom, "Ana")
	ana.send("subscribe", buildTopic, object{"last": 1})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		chat.RunBuilds(ctx, time.Millisecond)
	}()
	ana.until(func(e event) bool { return e.Topic == buildTopic && e.Data.Number == 1 && e.Data.Progress == 48 })
	ana.until(func(e event) bool { return e.Topic == buildTopic && e.Data.Progress == 100 })
	e := ana.until(func(e event) bool { return e.is(roomPrefix) })
	if !strings.HasPrefix(e.Data.Text, "Build #1 passed") || e.Data.Via != "job" {
		t.Errorf("was told %+v", e.Data)
	}
	// Who comes between two steps need not wait for the next.
	if e := open(t, url, "").ask("subscribe", buildTopic, object{"last": 1}); len(e.Messages) != 1 {
		t.Errorf("the newcomer was told %+v", e)
	}
	stop()
	<-ended
}

func TestShutdownSendsPagesAway(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	out, printed := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, config{addr: "127.0.0.1:0", builds: true}, printed) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out) // ends with the pipe
	defer out.Close()
	url := strings.TrimSpace(strings.TrimPrefix(line, "Chat: "))

	ana := open(t, url, "")
	ana.enter("general", "Ana")
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
