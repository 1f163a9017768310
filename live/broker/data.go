package broker

import (
	"encoding/json"
	"fmt"

	"github.com/livetopic/livetopic/live/internal/jsonscan"
)

// CheckData makes sure that data stands in a frame without breaking it, as Server.Publish
// does: it is empty, or one JSON value in UTF-8 that nests at most 9,990 levels deep. A browser
// fails the whole connection for text that is not UTF-8 (RFC 6455, section 8.1). CheckData is for
// brokers that bring what others wrote. The error wraps ErrInvalidData.
func CheckData(data []byte) error {
	if len(data) == 0 || jsonscan.ValidData(data) {
		return nil
	}
	var v json.RawMessage
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidData, err)
	}
	if jsonscan.Valid(data) {
		return fmt.Errorf("%w: it nests deeper than %d levels", ErrInvalidData, jsonscan.MaxDataDepth)
	}
	return fmt.Errorf("%w: a string in it is not UTF-8", ErrInvalidData)
}
