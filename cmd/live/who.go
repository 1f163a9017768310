package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/livetopic/livetopic/live/liveclient"
)

// runWho prints who is present in a topic.
func runWho(ctx context.Context, p *program, args []string) error {
	asJSON := p.flags.Bool("json", false, "print one JSON object")
	rest, err := p.arguments(args, 1)
	if err != nil {
		return err
	}
	client, err := p.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	present, err := client.Presence(ctx, rest[0])
	if err != nil {
		return explain(err)
	}
	if *asJSON {
		return printJSON(p.out, map[string]any{"count": present.Count, "members": present.Members})
	}
	for _, m := range present.Members {
		fmt.Fprintln(p.out, oneLine(m.ID+"  "+infos(m)))
	}
	if present.Members == nil && present.Count > 0 {
		fmt.Fprintln(p.err, "The server tells only how many there are.")
	}
	fmt.Fprintln(p.err, present.Count, "present")
	return nil
}

// infos returns how many sessions a member has, and their infos.
func infos(m liveclient.Member) string {
	text := "1 session"
	if n := len(m.Sessions); n != 1 {
		text = fmt.Sprint(n, " sessions")
	}
	infos := bytes.Join(func() (list [][]byte) {
		for _, info := range m.Sessions {
			if info != nil && !bytes.Equal(info, []byte("null")) {
				list = append(list, info)
			}
		}
		return list
	}(), []byte(" "))
	if len(infos) > 0 {
		text += " " + string(infos)
	}
	return text
}
