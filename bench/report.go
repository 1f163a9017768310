package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/livetopic/livetopic/bench/server"
)

// table is printed as text and as Markdown. The first column holds names, the
// others figures.
type table struct {
	Head []string
	Rows [][]string
}

func (t table) writeText(w io.Writer) {
	widths := make([]int, len(t.Head))
	rows := append([][]string{t.Head}, t.Rows...)
	for _, row := range rows {
		for i, text := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, text := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if i == 0 {
				b.WriteString("  " + text + pad)
			} else {
				b.WriteString("  " + pad + text)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func (t table) writeMarkdown(w io.Writer) {
	fmt.Fprintf(w, "| %s |\n", strings.Join(t.Head, " | "))
	fmt.Fprintf(w, "|---%s|\n", strings.Repeat("|--:", len(t.Head)-1))
	for _, row := range t.Rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
}

// column is one figure of each server: the median over the rounds.
type column struct {
	Name string
	Of   func(figures) float64
	Text func(float64) string
}

// comparison is a table of one case. It has the main figure with its least, its greatest and
// its ratios, and other figures beside it.
func comparison(main column, others ...column) func(results) table {
	return func(r results) table {
		t := table{Head: []string{"server", main.Name, "least–greatest", "× floor", "× best peer"}}
		for _, c := range others {
			t.Head = append(t.Head, c.Name)
		}
		_, floor := r.best(server.Floor, 0, main.Of)
		_, peer := r.best(server.Peer, 0, main.Of)
		for _, kind := range r.kinds {
			if r.failed(kind, 0) {
				t.Rows = append(t.Rows, failedRow(kind.Name, len(t.Head)))
				continue
			}
			values := r.values(kind, 0, main.Of)
			value := median(values)
			row := []string{
				kind.Name,
				main.Text(value),
				main.Text(slices.Min(values)) + "–" + main.Text(slices.Max(values)),
				ratioText(ratio(value, floor)),
				ratioText(ratio(value, peer)),
			}
			for _, c := range others {
				row = append(row, c.Text(r.median(kind, 0, c.Of)))
			}
			t.Rows = append(t.Rows, row)
		}
		return t
	}
}

// growth is a table of one figure in all cases, and how the last compares to the
// first.
func growth(main column) func(results) table {
	return func(r results) table {
		t := table{Head: []string{main.Name}}
		for _, c := range r.workload.Cases {
			t.Head = append(t.Head, c.Label)
		}
		t.Head = append(t.Head, "last : first")
		last := len(r.workload.Cases) - 1
		for _, kind := range r.kinds {
			row := []string{kind.Name}
			for at := range r.workload.Cases {
				if r.failed(kind, at) {
					row = append(row, failedText)
				} else {
					row = append(row, main.Text(r.median(kind, at, main.Of)))
				}
			}
			row = append(row, ratioText(ratio(r.median(kind, last, main.Of), r.median(kind, 0, main.Of))))
			t.Rows = append(t.Rows, row)
		}
		return t
	}
}

// withNotes adds what became of the slow session to a table of one case.
func withNotes(name string, build func(results) table) func(results) table {
	return func(r results) table {
		t := build(r)
		t.Head = append(t.Head, name)
		for i, kind := range r.kinds {
			if r.failed(kind, 0) {
				t.Rows[i] = append(t.Rows[i], "")
				continue
			}
			var notes []string
			for _, f := range r.runs[cell{kind.Name, 0}] {
				if !slices.Contains(notes, f.Note) {
					notes = append(notes, f.Note)
				}
			}
			t.Rows[i] = append(t.Rows[i], strings.Join(notes, " / "))
		}
		return t
	}
}

const failedText = "FAILED"

func failedRow(name string, columns int) []string {
	row := make([]string, columns)
	row[0], row[1] = name, failedText
	return row
}

// failureLines says why servers failed, once for each server and case.
func failureLines(r results) []string {
	var lines []string
	for _, kind := range r.kinds {
		for at, c := range r.workload.Cases {
			if err := r.failures[cell{kind.Name, at}]; err != nil {
				label := r.workload.Name
				if c.Label != "" {
					label += ", " + c.Label
				}
				lines = append(lines, fmt.Sprintf("%s: %s (%s): %v", failedText, kind.Name, label, err))
			}
		}
	}
	return lines
}

// summary sets this library beside the floor and the best peer, by the headline of
// each workload.
func summary(all []results) table {
	t := table{Head: []string{"", "livetopic", "floor", "best peer", "livetopic : floor", "best peer : livetopic"}}
	for _, r := range all {
		h := r.workload.Headline
		if h.Of == nil {
			continue
		}
		_, subject := r.best(server.Subject, 0, h.Of)
		_, floor := r.best(server.Floor, 0, h.Of)
		name, peer := r.best(server.Peer, 0, h.Of)
		peerText := h.Text(peer)
		if name != "" {
			peerText += " (" + name + ")"
		}
		t.Rows = append(t.Rows, []string{
			r.workload.Name + ": " + h.Name,
			h.Text(subject),
			h.Text(floor),
			peerText,
			ratioText(ratio(subject, floor)),
			ratioText(ratio(peer, subject)),
		})
	}
	return t
}

const absent = "–"

// wholeText is a whole number with commas.
func wholeText(v float64) string {
	if math.IsNaN(v) {
		return absent
	}
	digits := strconv.FormatInt(int64(math.Round(math.Abs(v))), 10)
	var b strings.Builder
	if v <= -0.5 {
		b.WriteByte('-')
	}
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func ratioText(v float64) string    { return fixed(v, 2) }
func allocsText(v float64) string   { return fixed(v, 3) }
func microsText(v float64) string   { return wholeText(v / 1e3) }
func millisText(v float64) string   { return wholeText(v / 1e6) }
func kiloText(v float64) string     { return fixed(v/1024, 1) }
func megabyteText(v float64) string { return fixed(v/(1<<20), 0) }

func fixed(v float64, decimals int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return absent
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}
