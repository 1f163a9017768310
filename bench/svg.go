package main

import (
	"fmt"
	"html"
	"io"
	"math"

	"github.com/livetopic/livetopic/bench/server"
)

// chart is a bar for each server, and the floor as a line.
type chart struct {
	Title string
	Bars  []bar
	Floor float64 // NaN: none
	Text  func(float64) string
}

type bar struct {
	Name   string
	Value  float64
	Strong bool // this library
}

// chartOf draws a workload's headline; false when it has none, or no server has one.
func chartOf(r results) (chart, bool) {
	h := r.workload.Headline
	if h.Of == nil {
		return chart{}, false
	}
	c := chart{Title: r.workload.Title + ": " + h.Name, Text: h.Text}
	_, c.Floor = r.best(server.Floor, 0, h.Of)
	for _, kind := range r.kinds {
		value := r.median(kind, 0, h.Of)
		if kind.Role == server.Floor || math.IsNaN(value) {
			continue
		}
		c.Bars = append(c.Bars, bar{kind.Name, value, kind.Role == server.Subject})
	}
	return c, len(c.Bars) > 0
}

// The geometry of a chart, in pixels.
const (
	chartWidth  = 760
	barLeft     = 110 // room for the names
	barRight    = 660 // and for the values after the longest bar
	barTop      = 64
	barHeight   = 22
	barPitch    = 32
	chartBottom = 34 // room for the floor's label
)

// chartStyle follows the reader's colour scheme. Every text has a contrast of at
// least 4.5:1 in both.
const chartStyle = `
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .back { fill: #ffffff }
  .peer { fill: #9aa4b2 }
  .ours { fill: #0b6bcb }
  .floor { stroke: #b3261e; stroke-width: 2; stroke-dasharray: 5 4 }
  .floorname { fill: #b3261e }
  .strong { font-weight: 600 }
  .value { paint-order: stroke; stroke: #ffffff; stroke-width: 5px; stroke-linejoin: round }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .back { fill: #0d1117 }
    .peer { fill: #6b7684 }
    .ours { fill: #4aa3ff }
    .floor { stroke: #ff8a80 }
    .floorname { fill: #ff8a80 }
    .value { stroke: #0d1117 }
  }
`

func (c chart) writeSVG(w io.Writer) {
	longest := 0.0
	for _, b := range c.Bars {
		longest = max(longest, b.Value)
	}
	if !math.IsNaN(c.Floor) {
		longest = max(longest, c.Floor)
	}
	x := func(v float64) float64 { return barLeft + (barRight-barLeft)*max(v, 0)/max(longest, 1e-9) }
	bottom := barTop + barPitch*len(c.Bars)
	height := bottom + chartBottom
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="t d">`+"\n",
		chartWidth, height, chartWidth, height)
	fmt.Fprintf(w, "<title id=\"t\">%s</title>\n<desc id=\"d\">%s</desc>\n<style>%s</style>\n",
		html.EscapeString(c.Title), html.EscapeString(c.describe()), chartStyle)
	fmt.Fprintf(w, `<rect class="back" width="%d" height="%d" rx="8"/>`+"\n", chartWidth, height)
	fmt.Fprintf(w, `<text class="title" x="16" y="28">%s</text>`+"\n", html.EscapeString(c.Title))
	fmt.Fprintf(w, `<text x="16" y="48">less is better</text>`+"\n")
	y := func(i int) int { return barTop + barPitch*i }
	for i, b := range c.Bars {
		class := "peer"
		if b.Strong {
			class = "ours"
		}
		fmt.Fprintf(w, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="3"/>`+"\n",
			class, barLeft, y(i), max(x(b.Value)-barLeft, 1), barHeight)
	}
	if !math.IsNaN(c.Floor) {
		fmt.Fprintf(w, `<line class="floor" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, x(c.Floor), x(c.Floor), barTop-6, bottom+2)
		fmt.Fprintf(w, `<text class="floorname" x="%.1f" y="%d">floor %s</text>`+"\n", min(x(c.Floor), barRight), bottom+20, html.EscapeString(c.Text(c.Floor)))
	}
	for i, b := range c.Bars { // last, so that the line runs behind the figures
		weight := ""
		if b.Strong {
			weight = " strong"
		}
		fmt.Fprintf(w, `<text class="name%s" x="%d" y="%d" text-anchor="end">%s</text>`, weight, barLeft-10, y(i)+16, html.EscapeString(b.Name))
		fmt.Fprintf(w, `<text class="value%s" x="%.1f" y="%d">%s</text>`+"\n", weight, x(b.Value)+8, y(i)+16, html.EscapeString(c.Text(b.Value)))
	}
	fmt.Fprintln(w, "</svg>")
}

// describe says in words what the picture shows.
func (c chart) describe() string {
	text := ""
	for _, b := range c.Bars {
		text += fmt.Sprintf("%s %s; ", b.Name, c.Text(b.Value))
	}
	if math.IsNaN(c.Floor) {
		return text + "no floor"
	}
	return text + "floor " + c.Text(c.Floor)
}
