package liveclient

import (
	"net/http"
	"testing"
	"time"
)

func TestRetryAfterIsSecondsOrATime(t *testing.T) {
	const date = "Fri, 27 Nov 2026 10:00:00 GMT"
	for _, test := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", date, 0},
		{"0", date, 0},
		{"30", date, 30 * time.Second},
		{"030", date, 30 * time.Second},
		{"3600", date, time.Hour},
		{"3601", date, time.Hour},
		{"99999999999999999999999", date, time.Hour},
		{"-5", date, 0},
		{"1.5", date, 0},
		{"soon", date, 0},
		{"Fri, 27 Nov 2026 10:00:45 GMT", date, 45 * time.Second},
		{"Friday, 27-Nov-26 10:00:45 GMT", date, 45 * time.Second},
		{"Fri, 27 Nov 2026 09:59:00 GMT", date, 0},
		{"Fri, 27 Nov 2099 10:00:00 GMT", date, time.Hour},
		{"Fri, 27 Nov 2099 10:00:00 GMT", "", time.Hour},
		{"Fri, 27 Nov 1999 10:00:00 GMT", "yesterday", 0},
	} {
		header := http.Header{}
		header.Set("Retry-After", test.value)
		header.Set("Date", test.date)
		if got := retryAfter(header); got != test.want {
			t.Errorf("%q at %q is %v, want %v", test.value, test.date, got, test.want)
		}
	}
}
