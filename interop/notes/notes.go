// Package notes publishes a component of templ. After a change of note.templ, run
// go run github.com/a-h/templ/cmd/templ@v0.3.977 generate.
package notes

import (
	"context"
	"strconv"
	"strings"

	"github.com/livetopic/livetopic/live"
)

// Publish publishes a note as HTML to the topic "notes".
func Publish(ctx context.Context, server *live.Server, id int, text string) error {
	var html strings.Builder
	if err := note(id, text).Render(ctx, &html); err != nil {
		return err
	}
	return live.Publish(server, "notes", html.String(), live.Key(strconv.Itoa(id)))
}
