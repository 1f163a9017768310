package main

import (
	"context"
	"encoding/json"

	"github.com/livetopic/livetopic/live"
)

// Who is in a room is presence, which the library keeps over all instances: a person is
// there with every tab that is subscribed to the room. What the others see of a tab is this.
type info struct {
	Name   string `json:"name"`
	Typing bool   `json:"typing,omitempty"`
}

// mayShow checks what a tab says of itself. It is also the name under which the tab says something.
func (c *Chat) mayShow(_ context.Context, s *live.Session, _ string, data []byte) ([]byte, error) {
	var shown info
	if json.Unmarshal(data, &shown) != nil {
		return nil, errUnclear
	}
	name, err := cleanName(shown.Name)
	if err != nil {
		return nil, err
	}
	s.Value().(*visitor).name = name
	return json.Marshal(info{name, shown.Typing})
}
