package closecode_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/closecode"
)

// row is what clients do after the codes from one to another.
type row struct {
	From    int    `json:"from"`
	To      int    `json:"to"`
	Reason  string `json:"reason"`
	Does    string `json:"does"`    // backOff, return, renew, stop
	Resends bool   `json:"resends"` // publications that have no answer
	Bound   int64  `json:"bound"`   // of the first waiting time, in milliseconds; 0: the client does not come back
}

var names = map[closecode.Action]string{
	closecode.BackOff: "backOff", closecode.Return: "return", closecode.Renew: "renew", closecode.Stop: "stop",
}

// firstBackoff is the bound of the first waiting time of live.js, and of Options.MinBackoff in liveclient.
const firstBackoff = 500 * time.Millisecond

func reactionTo(code int, reason string) row {
	r := closecode.ReactionTo(code, reason)
	bound := firstBackoff
	switch r.Action {
	case closecode.Return:
		if w := closecode.Window(code, reason); w > 0 {
			bound = w
		}
	case closecode.Renew:
		bound = closecode.RenewWindow
	case closecode.Stop:
		bound = 0
	}
	return row{code, code, reason, names[r.Action], r.Action != closecode.Stop && !r.Suspect, bound.Milliseconds()}
}

// table has what clients do after every code that there is, with and without a reason.
func table() (all []row) {
	for _, reason := range []string{"", "why", closecode.WithWindow("restart", 5*time.Second), closecode.WithWindow("", time.Hour), "return within 0 ms", "return within 99999999999999999999 ms"} {
		first := len(all)
		for code := 1000; code <= 4999; code++ {
			next := reactionTo(code, reason)
			if n := len(all); n > first {
				last := all[n-1]
				last.From, last.To = code, code
				if last == next {
					all[n-1].To = code
					continue
				}
			}
			all = append(all, next)
		}
	}
	return all
}

const shared = "../../../client/test/closecodes.json"

// The tests of live.js check every row of client/test/closecodes.json. So the file must be what this table says. With
// WRITE_CLOSECODES=1 in the environment the test writes it.
func TestLiveJSIsCheckedAgainstThisTable(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("[\n")
	for i, r := range table() {
		if i > 0 {
			b.WriteString(",\n")
		}
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("  " + string(line))
	}
	b.WriteString("\n]\n")
	if os.Getenv("WRITE_CLOSECODES") != "" {
		if err := os.WriteFile(shared, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(shared)
	if err != nil || !bytes.Equal(file, b.Bytes()) {
		t.Errorf("%s is not what the table says (%v); run this test with WRITE_CLOSECODES=1, and then the tests of live.js", shared, err)
	}
}

// The table of docs/protocol.md names every code once, and says the same of it.
func TestProtocolPageHasThisTable(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(raw), "\n## Close codes\n")
	rows := regexp.MustCompile(`(?m)^\| (.*?) \| (.*?) \| (.*?) \|$`).FindAllStringSubmatch(page, -1)
	if len(rows) < 10 {
		t.Fatalf("%d rows found", len(rows))
	}
	said := make(map[string]string) // what the client does, by code, and " with a reason" for 1000
	for _, cells := range rows[1:] {
		for _, code := range codesIn(t, cells[1]) {
			name := fmt.Sprint(code)
			if strings.Contains(cells[1], "with a reason") {
				name += " with a reason"
			}
			if said[name] != "" {
				t.Errorf("%s is in two rows", name)
			}
			said[name] = cells[3]
		}
	}
	for _, code := range []int{1000, 1001, 1002, 1006, 1007, 1008, 1009, 1011, 1012, 1013} {
		check(t, code, "", said[fmt.Sprint(code)])
	}
	check(t, 1000, "bye", said["1000 with a reason"])
	for code := 3000; code <= 4999; code++ {
		check(t, code, "", said[fmt.Sprint(code)])
	}
}

// codesIn returns the codes that the first cell of a row names.
func codesIn(t *testing.T, cell string) (all []int) {
	if cell == "none (1006)" {
		return []int{1006}
	}
	cell, _, _ = strings.Cut(cell, ", with") // "1000, without one" too
	for _, part := range strings.Split(cell, ", ") {
		from, to, isRange := strings.Cut(part, "–")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err != nil || err2 != nil {
			continue // the head of a table
		}
		for code := first; code <= last; code++ {
			all = append(all, code)
		}
	}
	return all
}

func check(t *testing.T, code int, reason, said string) {
	t.Helper()
	r := closecode.ReactionTo(code, reason)
	words := map[closecode.Action]string{
		closecode.BackOff: "backs off", closecode.Return: "within it", closecode.Renew: "fetches a new token", closecode.Stop: "st", // stays away, stops
	}
	if said == "" || !strings.Contains(said, words[r.Action]) || strings.Contains(said, "does not send it again") != r.Suspect {
		t.Errorf("%d %q: the page says %q, the table %+v", code, reason, said, r)
	}
}

// The codes of package live have the meaning that its comment says.
func TestCodesOfLive(t *testing.T) {
	for code, want := range map[int]closecode.Reaction{
		live.CloseRefused:       {Action: closecode.BackOff, Suspect: true},
		live.CloseTooBig:        {Action: closecode.BackOff, Suspect: true},
		live.ClosePanic:         {Action: closecode.BackOff, Suspect: true},
		live.CloseRestart:       {Action: closecode.Return},
		live.CloseRevoked:       {Action: closecode.Stop},
		live.CloseProtocol:      {Action: closecode.Stop},
		live.CloseReplaced:      {Action: closecode.Stop},
		live.CloseQueueFull:     {Action: closecode.BackOff},
		live.ClosePingTimeout:   {Action: closecode.BackOff},
		live.CloseUserBytes:     {Action: closecode.BackOff},
		live.CloseSignInExpired: {Action: closecode.Renew},
	} {
		if got := closecode.ReactionTo(code, ""); got != want {
			t.Errorf("%d: %+v, want %+v", code, got, want)
		}
	}
}

func TestApplicationsMayNotUseCodesOfTheProtocol(t *testing.T) {
	allowed := map[int]bool{1000: true, 1008: true, 1011: true, 1012: true, 1013: true}
	for code := -1; code <= 6000; code++ {
		if want := allowed[code] || code >= 3000 && code <= 4999; closecode.ForApplications(code) != want {
			t.Errorf("%d: %v", code, !want)
		}
	}
}
