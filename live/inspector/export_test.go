package inspector

import "github.com/livetopic/livetopic/live"

// KindOf is how an end is called and explained.
func KindOf(e *live.SessionEnd) (name, meaning string) {
	kind := kindOf(e)
	return kind.name, kind.meaning
}
