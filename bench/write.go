package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/server"
)

// report is all that is printed and written.
type report struct {
	Command string
	Date    time.Time
	Load    string // of the machine before the run
	Rounds  int
	Kinds   []server.Kind
	Results []results
}

// writeText prints the tables.
func (p report) writeText(w io.Writer) {
	for _, r := range p.Results {
		fmt.Fprintf(w, "\n%s: %s\n\n", r.workload.Name, r.workload.Title)
		r.workload.Table(r).writeText(w)
		for _, line := range failureLines(r) {
			fmt.Fprintf(w, "\n  %s\n", line)
		}
	}
	if t := summary(p.Results); len(t.Rows) > 0 {
		fmt.Fprintf(w, "\nSummary\n\n")
		t.writeText(w)
	}
}

// writeFiles writes the Markdown page, and the charts beside it.
func (p report) writeFiles(file string) error {
	var page bytes.Buffer
	p.writeMarkdown(&page)
	if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
		return err
	}
	for _, r := range p.Results {
		c, ok := chartOf(r)
		if !ok {
			continue
		}
		var image bytes.Buffer
		c.writeSVG(&image)
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), chartFile(r)), image.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func chartFile(r results) string { return r.workload.Name + ".svg" }

func (p report) writeMarkdown(w io.Writer) {
	fmt.Fprintf(w, "# Results\n\nWritten by `%s`; do not edit. [README.md](README.md) says what is measured and how.\n\n", p.Command)
	fmt.Fprintf(w, "%s. %s. Load of the machine before the run: %s. Each figure is the median of its rounds (%d, or as stated);\n"+
		"least–greatest shows how far they lay apart.\n\n", p.Date.Format("2 January 2006"), machine(), p.Load, p.Rounds)
	p.writeKinds(w)
	if t := summary(p.Results); len(t.Rows) > 0 {
		fmt.Fprint(w, "\n## Summary\n\n")
		t.writeMarkdown(w)
	}
	for _, r := range p.Results {
		fmt.Fprintf(w, "\n## %s: %s\n\n%s\n\n", r.workload.Name, r.workload.Title, r.workload.About)
		if n := r.workload.Rounds; n > 0 && n < p.Rounds {
			fmt.Fprintf(w, "Rounds: %d.\n\n", n)
		}
		r.workload.Table(r).writeMarkdown(w)
		for _, line := range failureLines(r) {
			fmt.Fprintf(w, "\n**%s**\n", line)
		}
		if c, ok := chartOf(r); ok {
			fmt.Fprintf(w, "\n![%s](%s)\n", c.Title, chartFile(r))
		}
	}
}

func (p report) writeKinds(w io.Writer) {
	versions := moduleVersions()
	fmt.Fprint(w, "| server | version | how it is used |\n|---|---|---|\n")
	for _, kind := range p.Kinds {
		version := absent
		if kind.Module != "" {
			version = kind.Module + " " + versions[kind.Module]
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", kind.Name, version, kind.About)
	}
}

// moduleVersions are those that this program was built with.
func moduleVersions() map[string]string {
	versions := map[string]string{}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return versions
	}
	for _, m := range info.Deps {
		versions[m.Path] = m.Version
	}
	return versions
}

// machine says what the figures were measured on, and nothing that names it.
func machine() string {
	var uname unix.Utsname
	kernel := "?"
	if unix.Uname(&uname) == nil {
		kernel = unix.ByteSliceToString(uname.Release[:])
	}
	return fmt.Sprintf("%d cores, %s, Linux %s, %s %s/%s",
		runtime.NumCPU(), cpuModel(), kernel, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// loadAverage is the machine's over the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}
