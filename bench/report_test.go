package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/bench/server"
)

// someResults has every kind of server in it: the medians of CPU are 130, 400,
// 250 and 100, and one peer failed in its last round.
func someResults() results {
	kinds := []server.Kind{
		{Name: "ours", Role: server.Subject},
		{Name: "slowpeer", Role: server.Peer},
		{Name: "fastpeer", Role: server.Peer},
		{Name: "badpeer", Role: server.Peer},
		{Name: "floor", Role: server.Floor},
	}
	w := workload{
		Name:     "burst",
		Title:    "bursts",
		Cases:    []testcase{{}},
		Table:    costTable,
		Headline: cpuHeadline,
	}
	r := newResults(w, kinds)
	for i, values := range [][]float64{{120, 130, 900}, {390, 400, 410}, {250, 240, 260}, {1, 1}, {100, 99, 101}} {
		for _, v := range values {
			r.add(kinds[i], 0, figures{CPU: v, Rate: 1e9 / v}, nil)
		}
	}
	r.add(kinds[3], 0, figures{}, errors.New("session 5: lost"))
	return r
}

func TestComparisonHasMediansAndRatios(t *testing.T) {
	got := costTable(someResults())
	want := [][]string{
		{"ours", "130", "120–900", "1.30", "0.52"},
		{"slowpeer", "400", "390–410", "4.00", "1.60"},
		{"fastpeer", "250", "240–260", "2.50", "1.00"},
		{"badpeer", failedText, "", "", ""},
		{"floor", "100", "99–101", "1.00", "0.40"},
	}
	for i, row := range want {
		if !slices.Equal(got.Rows[i][:5], row) {
			t.Errorf("row %v, want %v", got.Rows[i][:5], row)
		}
		if len(got.Rows[i]) != len(got.Head) {
			t.Errorf("row %v has not the %d columns of the head", got.Rows[i], len(got.Head))
		}
	}
}

func TestSummaryComparesWithFloorAndBestPeer(t *testing.T) {
	got := summary([]results{someResults()}).Rows
	want := []string{"burst: server CPU ns/delivery", "130", "100", "250 (fastpeer)", "1.30", "1.92"}
	if len(got) != 1 || !slices.Equal(got[0], want) {
		t.Errorf("summary %v, want %v", got, want)
	}
}

func TestFailureIsStatedWithItsReason(t *testing.T) {
	var page strings.Builder
	report{Results: []results{someResults()}}.writeMarkdown(&page)
	if want := "**FAILED: badpeer (burst): session 5: lost**"; !strings.Contains(page.String(), want) {
		t.Errorf("the page does not say %q:\n%s", want, page.String())
	}
}

func TestChartShowsServersAndFloor(t *testing.T) {
	c, ok := chartOf(someResults())
	if !ok {
		t.Fatal("no chart")
	}
	var image strings.Builder
	c.writeSVG(&image)
	for _, want := range []string{"<svg ", "prefers-color-scheme: dark", ">ours<", ">130<", ">fastpeer<", "floor 100", "</svg>"} {
		if !strings.Contains(image.String(), want) {
			t.Errorf("the chart lacks %q", want)
		}
	}
	if strings.Contains(image.String(), "badpeer") {
		t.Error("the chart has a bar for a server that failed")
	}
}

func TestCommandLeavesOutWhereResultsGo(t *testing.T) {
	got := command([]string{"-rounds", "3", "-out", "/somewhere/R.md", "-quick", "--out=x"})
	if want := "go run ./bench -rounds 3 -quick"; got != want {
		t.Errorf("command %q, want %q", got, want)
	}
}
