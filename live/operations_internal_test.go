package live

import "testing"

func TestTopicWithHalfAPairIsRefused(t *testing.T) {
	for topic, good := range map[string]bool{
		`a`:                         true,
		`\\ud83d\uD83D\uDE00\ufffd`: true,
		`a\ud83d`:                   false,
		`\udc00\ud83d`:              false,
		`\ud83d\ud83d\ude00`:        false,
		`\ud83d\n`:                  false,
		`\ud83d\u0041`:              false,
	} {
		_, isOp, ok := parseOperation([]byte(`{"op":"subscribe","topic":"` + topic + `"}`))
		if !isOp || ok != good {
			t.Errorf("%s: accepted: %t", topic, ok)
		}
	}
}
