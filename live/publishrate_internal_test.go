package live

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Topics that clients invent are forgotten when their rate is at rest.
func TestPublishRatesForgetTopicsAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p publishRates
		o := TopicOptions{PublishRate: 10}
		most := 0
		for second := range 100 {
			for i := range 100 {
				if !p.allow(fmt.Sprint(second, ":", i), "", o) {
					t.Fatal("refused")
				}
			}
			most = max(most, len(p.topics))
			time.Sleep(time.Second)
		}
		if most > minRatesKept {
			t.Errorf("%d topics were kept, and 100 published to in a second", most)
		}
		for i := range 10 {
			if !p.allow("busy", "", o) {
				t.Fatalf("publication %d was refused", i)
			}
		}
		for i := range 3 * minRatesKept {
			p.allow(fmt.Sprint(i), "", o)
		}
		if p.allow("busy", "", o) {
			t.Error("a busy topic was forgotten")
		}
	})
}
