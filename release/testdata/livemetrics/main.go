// A program that Prometheus watches.
package main

import (
	"log"
	"strings"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livemetrics"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(livemetrics.New(live.New(live.Options{}), nil))
	families, err := registry.Gather()
	if err != nil || len(families) == 0 || !strings.HasPrefix(families[0].GetName(), "live_") {
		log.Fatalf("metrics %v, error %v", families, err)
	}
	if livemetrics.Dashboard() == "" || livemetrics.Alerts() == "" {
		log.Fatal("no dashboard, or no alerts")
	}
}
