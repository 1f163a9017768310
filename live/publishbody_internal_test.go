package live

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPublicationsAreRead(t *testing.T) {
	for body, want := range map[string][]HTTPPublication{
		`{"topic":"t","data":1}`:                                    {{Topic: "t", Data: json.RawMessage(`1`)}},
		` { "data" : {"a": [1, 2]} , "topic" : "a\nb" } `:           {{Topic: "a\nb", Data: json.RawMessage(`{"a": [1, 2]}`)}},
		`{"topic":"t","data":null}`:                                 {{Topic: "t", Data: json.RawMessage(`null`)}},
		`{"topic":"t","data":1,"id":null,"key":null,"remove":null}`: {{Topic: "t", Data: json.RawMessage(`1`)}},
		`{"topic":"t","data":1,"id":"a","key":"b","remove":false}`:  {{Topic: "t", Data: json.RawMessage(`1`), ID: "a", Key: "b"}},
		`{"topic":"t","key":"b","remove":true}`:                     {{Topic: "t", Key: "b", Remove: true}},
		`{"topic":"t","key":"b","remove":true,"data":null}`:         {{Topic: "t", Key: "b", Remove: true}},
		`[{"topic":"t","data":1},{"topic":"u","data":"2"}]`:         {{Topic: "t", Data: json.RawMessage(`1`)}, {Topic: "u", Data: json.RawMessage(`"2"`)}},
		`[]`:                          nil,
		`{"\u0074opic":"t","data":1}`: {{Topic: "t", Data: json.RawMessage(`1`)}},
	} {
		got, many, err := decodePublications([]byte(body))
		if err != nil || !reflect.DeepEqual(got, want) || many != strings.HasPrefix(body, "[") {
			t.Errorf("%s: %+v, %v, %v", body, got, many, err)
		}
	}
}

func TestInvalidPublicationsAreNamed(t *testing.T) {
	for _, c := range []struct{ body, member, message string }{
		{``, "", "unexpected end of JSON input"},
		{`{"topic":"t","data":}`, "", "at byte 21"},
		{"{\"topic\":\"\xff\",\"data\":1}", "", "not UTF-8"},
		{`1`, "", "must be an object, or an array"},
		{`[1]`, "", "must be an object"},
		{`{}`, "topic", "missing"},
		{`{"topic":null,"data":1}`, "topic", "missing"},
		{`{"topic":1,"data":1}`, "topic", "string"},
		{`{"topic":"\ud800","data":1}`, "topic", "Unicode"},
		{`{"topic":"t"}`, "data", "missing"},
		{`{"topic":"t","data":1,"id":1}`, "id", "string"},
		{`{"topic":"t","data":1,"key":["a"]}`, "key", "string"},
		{`{"topic":"t","data":1,"remove":"yes"}`, "remove", "true or false"},
		{`{"topic":"t","data":1,"key":"a","remove":true}`, "data", "left out"},
		{`{"topic":"t","data":1,"kye":"a"}`, "kye", "no member"},
	} {
		_, _, err := decodePublications([]byte(c.body))
		if err == nil || err.status != 400 || err.Code != "bad_request" || err.Member != c.member || !strings.Contains(err.Message, c.message) {
			t.Errorf("%s: %+v", c.body, err)
		}
		if !strings.HasPrefix(c.body, "{") || c.member == "" {
			continue
		}
		_, _, err = decodePublications(fmt.Appendf(nil, `[{"topic":"t","data":1},%s]`, c.body))
		if err == nil || err.Index == nil || *err.Index != 1 || err.Member != c.member {
			t.Errorf("[…,%s]: %+v", c.body, err)
		}
	}
}

func TestPublicationsOfARequestAreBounded(t *testing.T) {
	for n, wanted := range map[int]int{maxPublications: 0, maxPublications + 1: 413} {
		body := "[" + strings.TrimSuffix(strings.Repeat(`{"topic":"t","data":1},`, n), ",") + "]"
		all, _, err := decodePublications([]byte(body))
		switch {
		case wanted == 0 && (err != nil || len(all) != n):
			t.Errorf("%d: %d are read, %v", n, len(all), err)
		case wanted > 0 && (err == nil || err.status != wanted):
			t.Errorf("%d: %v", n, err)
		}
	}
}

// The application may append to what it is handed.
func TestDataOfAPublicationCanGrow(t *testing.T) {
	all, _, err := decodePublications([]byte(`[{"topic":"t","data":1},{"topic":"u","data":2}]`))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(all[0].Data, strings.Repeat("0", len(`},{"topic":"u","data":2`))...)
	if all[1].Topic != "u" || string(all[1].Data) != "2" {
		t.Errorf("the next publication is %+v", all[1])
	}
}

// encoding/json, which decodes the same members, agrees.
func FuzzDecodePublications(f *testing.F) {
	for _, s := range []string{
		`{"topic":"t","data":1}`, `[{"topic":"t","data":{"a":[]},"id":"i"},{"topic":"u","key":"k","remove":true}]`, `[]`, `{}`,
		`{"topic":"\ud83d\ude00","data":"\ud800"}`, `{"topic":null,"data":null}`, `[[{"topic":"t","data":1}]]`, `{"data":1,"topic":"t","topic":"u"}`,
		`{"topic":"t","data":1,"remove":false}`, `{"\u0074opic":"t","data":1}`, "[ {\"topic\" : \"\xff\"} ]", strings.Repeat("[", 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, many, err := decodePublications(body)
		want, wantMany, valid, known := oracle(body)
		switch {
		case err != nil && (err.status != 400 && err.status != 413 || err.Code == "" || err.Message == ""):
			t.Fatalf("the refusal is %+v", err)
		case err != nil && err.Index != nil && (!many || *err.Index < 0 || *err.Index >= maxPublications+1):
			t.Fatalf("the index is %d", *err.Index)
		case !known:
		case (err == nil) != valid:
			t.Fatalf("%s: %v, and encoding/json says %v", body, err, valid)
		case err == nil && (many != wantMany || !reflect.DeepEqual(got, want)):
			t.Fatalf("%s: %+v, want %+v", body, got, want)
		}
	})
}

// oracle decodes publications with encoding/json. known is false if a text has U+FFFD, which
// encoding/json also makes of half a surrogate pair.
func oracle(body []byte) (all []HTTPPublication, many, valid, known bool) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false, false, true
	}
	var objects []map[string]json.RawMessage
	var one map[string]json.RawMessage
	if json.Unmarshal(body, &one) == nil && one != nil {
		objects = append(objects, one)
	} else if many = json.Unmarshal(body, &objects) == nil && objects != nil; !many {
		return nil, false, false, true
	}
	if len(objects) > maxPublications {
		return nil, many, false, true
	}
	for _, o := range objects {
		if o == nil {
			return nil, many, false, true
		}
		var p HTTPPublication
		for name, value := range o {
			into := map[string]any{"topic": &p.Topic, "id": &p.ID, "key": &p.Key, "remove": &p.Remove, "data": &p.Data}[name]
			if into == nil || json.Unmarshal(value, into) != nil {
				return nil, many, false, true
			}
		}
		if strings.ContainsRune(p.Topic+p.ID+p.Key, utf8.RuneError) {
			return nil, many, false, false
		}
		topic, hasTopic := o["topic"]
		data, hasData := o["data"]
		if !hasTopic || string(topic) == "null" || !p.Remove && !hasData || p.Remove && hasData && string(data) != "null" {
			return nil, many, false, true
		}
		if p.Remove {
			p.Data = nil
		}
		all = append(all, p)
	}
	return all, many, true, true
}
