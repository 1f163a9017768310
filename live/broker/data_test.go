package broker

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckData(t *testing.T) {
	for _, good := range []string{"", "1", " {} ", `"ä"`} {
		if err := CheckData([]byte(good)); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	if err := CheckData([]byte(strings.Repeat("[", 9_990) + strings.Repeat("]", 9_990))); err != nil {
		t.Errorf("9,990 levels: %v", err)
	}
	deep := strings.Repeat("[", 9_991) + strings.Repeat("]", 9_991)
	if err := CheckData([]byte(deep)); !errors.Is(err, ErrInvalidData) || !strings.Contains(err.Error(), "deeper than 9990 levels") {
		t.Errorf("9,991 levels: %v", err)
	}
	for _, bad := range []string{" ", "{", "1 2", "\"\xff\"", "NaN"} {
		if err := CheckData([]byte(bad)); !errors.Is(err, ErrInvalidData) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
