package natsbroker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Slices come one after another. While publications come, the pauses between slices are as long
// as the slices.
func TestSlicesLeaveTimeForPublications(t *testing.T) {
	for _, publishing := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var s scans
			s.init(true)
			if publishing {
				s.publishing()
			}
			const takes, slices = 3 * time.Millisecond, 4
			began := time.Now()
			var begins [slices]time.Duration
			for i := range slices {
				go s.slice(t.Context(), func(context.Context) (batch, error) {
					begins[i] = time.Since(began)
					time.Sleep(takes)
					return batch{}, nil
				})
				synctest.Wait() // so they come in order
			}
			time.Sleep(time.Second)
			synctest.Wait()
			each := takes
			if publishing {
				each *= 2
			}
			for i, begin := range begins {
				if begin != time.Duration(i)*each {
					t.Errorf("publishing %v: slice %d begins after %v, want %v", publishing, i, begin, time.Duration(i)*each)
				}
			}
		})
	}
}

func TestSliceThatIsGivenUpTakesNoPlace(t *testing.T) {
	var s scans
	s.init(true)
	s.slots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.slice(ctx, func(context.Context) (batch, error) { t.Error("asked"); return batch{}, nil }); err == nil {
		t.Error("no error")
	}
	if len(s.slots) != 1 {
		t.Error("it has left a place that it did not have")
	}
}
