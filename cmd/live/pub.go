package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/livetopic/livetopic/live/liveclient"
)

// maxLine bounds a line of the standard input. It is the default of live.Options.ReadLimit: a server
// takes no larger message unless it was told to.
const maxLine = 4 << 20

// runPub publishes one value, or each line of the standard input.
func runPub(ctx context.Context, p *program, args []string) error {
	id := p.flags.String("id", "", "the publication's `ID`: within two minutes the same ID is published once")
	text := p.flags.Bool("text", false, "data is a text, and not JSON")
	quiet := p.flags.Bool("quiet", false, "do not print positions")
	rest, err := p.arguments(args, 2)
	if err != nil {
		return err
	}
	topic, data := rest[0], rest[1]
	fromInput := data == "-"
	if fromInput && *id != "" {
		return usageError("-id names one publication, and the standard input has many")
	}
	if !fromInput {
		if _, err := encode(data, *text); err != nil {
			return usageError(err.Error())
		}
	}
	client, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	publish := func(data string, opts ...liveclient.CallOption) error {
		value, err := encode(data, *text)
		if err != nil {
			return err
		}
		at, err := client.Publish(ctx, topic, value, opts...)
		if err == nil && at != "" && !*quiet {
			fmt.Fprintln(p.out, oneLine(at))
		}
		return explain(err)
	}
	if !fromInput {
		var opts []liveclient.CallOption
		if *id != "" {
			opts = append(opts, liveclient.ID(*id))
		}
		return publish(data, opts...)
	}
	lines, ended := readLines(ctx, p.in)
	number := 0
	for {
		select {
		case line := <-lines:
			if number++; line == "" {
				continue
			}
			if err := publish(line); err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
		case err := <-ended:
			if errors.Is(err, bufio.ErrTooLong) {
				return fmt.Errorf("line %d is longer than %d bytes", number+1, maxLine)
			}
			return err
		case <-client.Done(): // publish would return the error only with the next line
			return client.Err()
		case <-ctx.Done():
			return nil
		}
	}
}

// readLines reads lines in a goroutine of its own, because reading does not end with ctx. After the last line, ended gets the error of
// reading; nil: the input is complete.
func readLines(ctx context.Context, in io.Reader) (lines chan string, ended chan error) {
	lines, ended = make(chan string), make(chan error, 1)
	go func() { // ends with the input, or with the line during which ctx ends
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxLine)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
		ended <- scanner.Err()
	}()
	return lines, ended
}

// encode returns data as JSON.
func encode(data string, isText bool) (json.RawMessage, error) {
	if isText {
		return json.Marshal(data)
	}
	if !json.Valid([]byte(data)) {
		return nil, fmt.Errorf("%.100q is not JSON; publish a text with -text", data)
	}
	return json.RawMessage(data), nil
}

// explain adds to an error what a person at a shell may not know.
func explain(err error) error {
	var refused *liveclient.Error
	switch {
	case err == nil:
		return nil
	case liveclient.Code(err) == liveclient.CodeForbidden:
		return fmt.Errorf("%w (the application's OnSubscribe, OnPublish or OnPresence decides)", err)
	case errors.As(err, &refused) && refused.Code == "" && refused.Sent:
		return fmt.Errorf("%w; it may have been carried out", err)
	}
	return err
}
