// Command live is a live server's client for the shell: it follows topics, publishes, and measures.
//
//	go run github.com/livetopic/livetopic/cmd/live sub -url http://localhost:8080/live news
//
// docs/cli.md shows each command.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// command is one of the program's commands.
type command struct {
	name, args, help string
	run              func(ctx context.Context, p *program, args []string) error
}

// commands are all commands, in the order in which help names them.
var commands = []command{
	{"sub", "topic…", "follow topics, with positions and gaps", runSub},
	{"pub", "topic data", "publish to a topic; data - reads lines from the standard input", runPub},
	{"history", "topic", "print the newest publications of a topic", runHistory},
	{"who", "topic", "print who is present in a topic", runWho},
	{"bench", "topic", "connect many clients, publish, and measure", runBench},
}

// program is what a command works with.
type program struct {
	name             string // of the command
	in               io.Reader
	out              *stdout // the standard output
	err              io.Writer
	getenv           func(string) string
	connection       connection
	flags            *flag.FlagSet
	explainArguments string
}

func main() {
	// The first signal ends a command in order, and a second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// run runs a command line, and returns the exit code: 1 if the command failed, 2 if the command line
// is wrong.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer, getenv func(string) string) int {
	if len(args) == 0 || slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		usage(errs)
		if len(args) == 0 {
			return 2
		}
		return 0
	}
	for _, c := range commands {
		if c.name != args[0] {
			continue
		}
		p := &program{name: c.name, in: in, out: newStdout(out), err: errs, getenv: getenv, explainArguments: c.args}
		p.flags = flag.NewFlagSet("live "+c.name, flag.ContinueOnError)
		p.flags.SetOutput(errs)
		p.flags.Usage = func() {
			fmt.Fprintf(errs, "live %s [flags] %s\n%s\nArguments that begin with - come after --, as in: live pub news -- -5\n\nFlags:\n", c.name, c.args, c.help)
			p.flags.PrintDefaults()
		}
		p.connection.addFlags(p.flags, getenv)
		err := c.run(ctx, p, args[1:])
		if err == nil {
			err = p.out.failure()
		}
		switch {
		case err == nil || errors.Is(err, flag.ErrHelp):
			return 0
		case errors.As(err, new(usageError)):
			fmt.Fprintf(errs, "live %s: %v\nlive %s -h lists the flags.\n", c.name, err, c.name)
			return 2
		case errors.As(err, new(flagError)): // package flag has printed it
			return 2
		}
		fmt.Fprintf(errs, "live %s: %s\n", c.name, oneLine(err.Error())) // a server has written a part of it
		return 1
	}
	fmt.Fprintf(errs, "live: %q is no command\n", args[0])
	usage(errs)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprint(w, "live talks to a live server from the shell.\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  live %-24s %s\n", c.name+" "+c.args, c.help)
	}
	fmt.Fprint(w, "\nlive sub -h lists the flags of sub. All commands take -url and the flags for signing in.\n"+
		"The environment variables LIVE_URL and LIVE_TOKEN stand for -url and -token.\n")
}

// stdout is the standard output. It keeps the first error: a program that loses lines must not end as if it had printed them.
type stdout struct {
	to     io.Writer
	failed chan struct{} // closed when a write has failed

	mu  sync.Mutex // guards err, and is held while something is written
	err error
}

func newStdout(to io.Writer) *stdout { return &stdout{to: to, failed: make(chan struct{})} }

func (o *stdout) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(b)
	if err != nil {
		o.err = fmt.Errorf("cannot write to the standard output: %w", err)
		close(o.failed)
	}
	return n, o.err
}

// failure returns the error of the first write that has failed.
func (o *stdout) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// usageError says what is wrong with a command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// flagError is an error of package flag.
type flagError struct{ error }

// parse reads the flags, and returns the other arguments. Flags may stand before, between and after these.
// After -- there are no flags.
func (p *program) parse(args []string) (rest []string, err error) {
	for {
		if err := p.flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, flagError{err}
		}
		if p.connection.timeout <= 0 {
			return nil, usageError("-timeout is above 0")
		}
		left := p.flags.Args()
		if len(left) == 0 {
			return rest, nil
		}
		if end := len(args) - len(left); end > 0 && args[end-1] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// arguments reads the flags, and returns the n other arguments. n < 0: there are at least -n.
func (p *program) arguments(args []string, n int) ([]string, error) {
	rest, err := p.parse(args)
	if err != nil {
		return nil, err
	}
	if (n >= 0 && len(rest) != n) || len(rest) < -n {
		return nil, usageError(fmt.Sprintf("the arguments are: %s", p.explainArguments))
	}
	if slices.Contains(rest[:1], "") {
		return nil, usageError("the topic is empty")
	}
	return rest, nil
}

// printJSON prints a value as one line of JSON. Encoders escape the characters below a space. The other
// characters that control a terminal can only be in strings, so they are escaped here.
func printJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var line strings.Builder
	for _, r := range string(raw) {
		if isControl(r) {
			fmt.Fprintf(&line, "\\u%04x", r)
		} else {
			line.WriteRune(r)
		}
	}
	_, err = fmt.Fprintln(w, line.String())
	return err
}

// isControl reports whether a character breaks a line or controls a terminal.
func isControl(r rune) bool { return r < ' ' || (r >= 0x7f && r < 0xa0) }

// oneLine replaces the characters that break a line or control a terminal. It is for texts that others have written.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if isControl(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
