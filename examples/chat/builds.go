package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/livetopic/livetopic/live"
)

const (
	buildTopic = "job:build"
	buildRoom  = "builds"

	// buildStep is how often a build tells how far it is.
	buildStep = 500 * time.Millisecond

	stepPercent = 4  // 25 steps a build
	pauseSteps  = 40 // between two builds
)

var buildStages = []string{"Fetching", "Compiling", "Testing", "Packaging"}

// build is how far the build is.
type build struct {
	Number   int    `json:"number"`
	Stage    string `json:"stage"`
	Progress int    `json:"progress"` // percent
}

// RunBuilds is a job in the background until ctx ends: it stands for whatever
// work has a progress to show. It publishes to a topic for everyone, of which the
// library keeps the newest for pages that come, and when a build is ready it says so
// in a room.
func (c *Chat) RunBuilds(ctx context.Context, step time.Duration) {
	for number := 1; ; number++ {
		begun := time.Now()
		for done := 0; done < 100; done += stepPercent {
			c.show(buildTopic, build{number, buildStages[done*len(buildStages)/100], done})
			if !sleep(ctx, step) {
				return
			}
		}
		c.show(buildTopic, build{number, "Passed", 100})
		text := fmt.Sprintf("Build #%d passed in %.1f s.", number, time.Since(begun).Seconds())
		if _, err := c.Say(buildRoom, message{Name: "Build bot", Text: text, Via: "job"}); err != nil && ctx.Err() == nil {
			slog.Error("chat: build not announced", "err", err)
		}
		if !sleep(ctx, pauseSteps*step) {
			return
		}
	}
}

// lastBuild returns the number of the last build there was, 0 if none.
func (c *Chat) lastBuild(ctx context.Context) int {
	last, err := live.History[build](ctx, c.live, buildTopic, 1)
	if err != nil || len(last) == 0 {
		return 0
	}
	return last[0].Number
}

// sleep waits and returns true, or false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
