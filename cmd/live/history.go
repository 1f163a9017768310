package main

import (
	"context"
)

// runHistory prints the newest publications of a topic, the oldest of them first.
func runHistory(ctx context.Context, p *program, args []string) error {
	limit := p.flags.Int("n", 20, "the newest `n` publications, at most 1000")
	asJSON := p.flags.Bool("json", false, "print one JSON object a line")
	rest, err := p.arguments(args, 1)
	switch {
	case err != nil:
		return err
	case *limit < 1 || *limit > 1000:
		return usageError("-n is from 1 to 1000")
	}
	client, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	messages, err := client.History(ctx, rest[0], *limit)
	if err != nil {
		return explain(err)
	}
	out := &printer{p: p, asJSON: *asJSON}
	for _, m := range messages {
		m.Topic, m.Recovered = rest[0], false
		out.message(m)
	}
	return nil
}
