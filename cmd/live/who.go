package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	client, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	present, err := client.Presence(ctx, rest[0])
	if err != nil {
		return explain(err)
	}
	if *asJSON {
		object := map[string]any{"count": present.Count}
		if present.Members != nil || present.Count == 0 { // else the server tells only the number
			object["members"] = members(present.Members)
		}
		return printJSON(p.out, object)
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

// member is a member of a topic in JSON, as in the protocol.
type member struct {
	ID       string            `json:"id"`
	Sessions []json.RawMessage `json:"sessions"`
}

func members(list []liveclient.Member) []member {
	all := make([]member, len(list))
	for i, m := range list {
		all[i] = member{m.ID, m.Sessions}
	}
	return all
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
