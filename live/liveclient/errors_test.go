package liveclient_test

import (
	"context"
	"errors"
	"testing"

	"github.com/livetopic/livetopic/live/liveclient"
)

func TestErrorsTellWhatToDo(t *testing.T) {
	for want, err := range map[string]error{
		`liveclient: publish "a" (not sent): client is closed`:                  &liveclient.Error{Op: "publish", Topic: "a", Err: liveclient.ErrClosed},
		`liveclient: request "a" (sent): context canceled`:                      &liveclient.Error{Op: "request", Topic: "a", Sent: true, Err: context.Canceled},
		`liveclient: subscribe "a": the server answered forbidden: not allowed`: &liveclient.Error{Op: "subscribe", Topic: "a", Sent: true, Code: "forbidden", Message: "not allowed"},
		`liveclient: subscribe "a": the server answered forbidden`:              &liveclient.Error{Op: "subscribe", Topic: "a", Sent: true, Code: "forbidden"},
		`liveclient: operation "" (not sent): it is not known why`:              &liveclient.Error{}, // of a program's own test
		`liveclient: the server closed the connection with 4001 "signed out"`:   &liveclient.CloseError{Code: 4001, Reason: "signed out"},
		`liveclient: the server refused the connection with 403 Forbidden: no`:  &liveclient.RefusedError{Status: 403, Text: "no"},
		`liveclient: messages of "a" may be missing: lost`:                      &liveclient.GapError{Gap: liveclient.Gap{Topic: "a", Reason: liveclient.GapLost}},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	other := errors.New("other")
	if liveclient.Code(other) != "" || liveclient.Sent(other) || liveclient.Code(nil) != "" {
		t.Error("an error of another package has a code, or was sent")
	}
}

func TestStaticToken(t *testing.T) {
	if token, err := liveclient.StaticToken("t")(context.Background()); token != "t" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
}
