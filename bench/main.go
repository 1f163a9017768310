// Command bench runs this library and its peers, each in a process of its own, under one
// load generator. It prints and writes what they cost. README.md says what is measured
// and why.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/livetopic/livetopic/bench/server"
)

func main() {
	runSubcommand()
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runSubcommand does not return if this process was started by another one of this program.
func runSubcommand() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case comersCommand:
		os.Exit(runComers(os.Stdin, os.Stdout))
	case serveCommand:
		os.Exit(server.RunProcess(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	case server.NodeCommand:
		os.Exit(server.RunNode(os.Stdin, os.Stdout, os.Stderr))
	}
}

// errFailed says that a server lost, repeated or misordered a delivery, or could not run
// at all. The tables say which it was.
var errFailed = errors.New("at least one server FAILED; see above")

func run(args []string, stdout, stderr io.Writer) error {
	s, err := parseSettings(args, stderr)
	if err != nil {
		return err
	}
	if err := prepareProcess(s); err != nil {
		return err
	}
	p := report{
		Command: command(args),
		Date:    time.Now(),
		Load:    loadAverage(),
		Rounds:  s.Rounds,
		Kinds:   s.Kinds,
	}
	for _, w := range s.Workloads {
		p.Results = append(p.Results, runWorkload(w, s, stderr))
	}
	p.writeText(stdout)
	if s.Out != "" {
		if err := p.writeFiles(s.Out); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\nwritten: %s\n", s.Out)
	}
	for _, r := range p.Results {
		if len(r.failures) > 0 {
			return errFailed
		}
	}
	return nil
}

// prepareProcess makes this process a good load generator.
func prepareProcess(s settings) error {
	if err := server.RaiseFileLimit(); err != nil {
		return err
	}
	runtime.LockOSThread()
	debug.SetGCPercent(400) // there is enough memory, but the server needs the CPU
	if len(s.GeneratorCPUs) > 0 {
		return pin(s.GeneratorCPUs)
	}
	return nil
}

// runWorkload has the servers take turns, so that other work of the machine slows all of
// them alike. A server that failed in a case is not run again in that case.
func runWorkload(w workload, s settings, progress io.Writer) results {
	r := newResults(w, w.takesPart(s.Kinds))
	rounds := s.Rounds
	if w.Rounds > 0 {
		rounds = min(rounds, w.Rounds)
	}
	for round := range rounds {
		for at, c := range w.Cases {
			for _, kind := range r.kinds {
				if r.failed(kind, at) {
					continue
				}
				f, err := c.Run(s.Env, kind)
				r.add(kind, at, f, err)
				fmt.Fprintf(progress, "%s %d/%d  %-12s%s  %s\n",
					w.Name, round+1, rounds, kind.Name, c.Label, progressText(w, f, err))
			}
		}
	}
	return r
}

func progressText(w workload, f figures, err error) string {
	switch {
	case err != nil:
		return failedText + ": " + err.Error()
	case w.Headline.Of != nil:
		return w.Headline.Text(w.Headline.Of(f)) + "  " + w.Headline.Name
	default:
		return wholeText(f.CPU) + "  CPU ns/delivery"
	}
}

// command is what to type to run this again. It leaves out where the results go.
func command(args []string) string {
	words := []string{"go run ./bench"}
	for i := 0; i < len(args); i++ {
		name := strings.TrimLeft(args[i], "-")
		if name == "out" || name == "cpuprofile" {
			i++
			continue
		}
		if strings.HasPrefix(name, "out=") || strings.HasPrefix(name, "cpuprofile=") {
			continue
		}
		words = append(words, args[i])
	}
	return strings.Join(words, " ")
}
