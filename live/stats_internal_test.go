package live

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
)

// fillWith sets all numbers in a value to the largest that there is, and all booleans to true.
func fillWith(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fillWith(v.Field(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fillWith(v.Index(i))
		}
	case reflect.Int, reflect.Int64:
		v.SetInt(math.MaxInt64)
	case reflect.Uint64:
		v.SetUint(math.MaxUint64)
	case reflect.Bool:
		v.SetBool(true)
	}
}

// A server that has run for years still tells the others its figures, and they get all of them.
func TestLargestFiguresFitInABeat(t *testing.T) {
	var st Stats
	fillWith(reflect.ValueOf(&st).Elem())
	data, err := json.Marshal(nodeBeat{Number: math.MaxUint64, Name: strings.Repeat("\x01", maxNodeName), Age: math.MaxInt64, Draining: true, Gone: true, Stats: st})
	if err != nil || len(data) > maxNodeBeat {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	var back nodeBeat
	if err := json.Unmarshal(data, &back); err != nil || back.Stats != st {
		t.Errorf("%v: %+v", err, back.Stats)
	}
}

// A server that has nothing to tell sends little. The older fields are always there, as older versions
// send them.
func TestBeatOfAServerWithoutSessionsIsShort(t *testing.T) {
	data, err := json.Marshal(New(Options{}).Stats())
	if err != nil || len(data) > 1024 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// Two versions may have different figures. What one does not know is 0.
func TestFiguresOfAnotherVersionAreRead(t *testing.T) {
	var b nodeBeat
	text := `{"number":7,"stats":{"Sessions":3,"Later":{"Counts":[1]},"AuthTime":{"Counts":[1,2],"Sum":5}}}`
	if err := json.Unmarshal([]byte(text), &b); err != nil || b.Stats.Sessions != 3 || b.Stats.AuthTime.Count() != 3 || b.Stats.Closed != 0 {
		t.Errorf("%v: %+v", err, b)
	}
}
