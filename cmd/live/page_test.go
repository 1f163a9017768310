package main

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
)

// Every command of docs/cli.md succeeds.
func TestCommandsOfThePageRun(t *testing.T) {
	blocks := livetest.Snippets(t, livetest.ReadFile(t, "../../docs/cli.md"), 5, "sh")
	server, url := serve(t)
	for range 60 {
		server.Publish("news", []byte("1"))
	}
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	commands := 0
	for _, block := range blocks {
		for line := range strings.Lines(block) {
			commands++
			t.Run(strings.TrimSpace(line), func(t *testing.T) {
				t.Parallel()
				input := ""
				if before, after, piped := strings.Cut(line, " | "); piped {
					input, line = "1\n2\n", after
					if !strings.HasPrefix(before, "printf") {
						t.Fatal("not a pipe that this test knows")
					}
				}
				args := words(line)
				ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // for the commands without an end
				defer cancel()
				var out, errs output
				if code := run(ctx, args[1:], strings.NewReader(input), &out, &errs, func(name string) string { return env[name] }); code != 0 {
					t.Errorf("exit code %d: %s", code, errs.String())
				}
				if args[1] != "who" && args[1] != "sub" && out.String() == "" {
					t.Error("it prints nothing")
				}
			})
		}
	}
	if commands < 10 {
		t.Errorf("%d commands found", commands)
	}
}

// words splits a command line as a shell does, as far as the page needs it.
func words(line string) (words []string) {
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(strings.TrimSpace(line), -1) {
		words = append(words, m[1]+m[2])
	}
	return words
}
