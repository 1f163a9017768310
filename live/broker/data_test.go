package broker

import (
	"errors"
	"testing"
)

func TestCheckData(t *testing.T) {
	for _, good := range []string{"", "1", " {} ", `"ä"`} {
		if err := CheckData([]byte(good)); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{" ", "{", "1 2", "\"\xff\"", "NaN"} {
		if err := CheckData([]byte(bad)); !errors.Is(err, ErrInvalidData) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
