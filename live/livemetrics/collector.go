// Package livemetrics hands the figures of a live.Server to Prometheus.
//
//	registry.MustRegister(livemetrics.New(server, nil))
//
// The names of the metrics stay the same. docs/operations.md of the repository says what each of them
// means, and when to act. Dashboard is a dashboard of Grafana on these metrics, and Alerts are rules
// for Prometheus.
//
// The package is a module of its own, so that a program without Prometheus gets nothing of it.
package livemetrics

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/prometheus/client_golang/prometheus"
)

// readyTimeout is how long a scrape waits for the broker to be ready. Prometheus gives a scrape ten
// seconds.
const readyTimeout = 900 * time.Millisecond

// Collector is the prometheus.Collector of one server. New makes it. A scrape calls Server.Stats,
// Nodes and Ready. It costs some microseconds, also with many sessions. While the broker is not
// ready, a scrape takes up to 0.9 s.
type Collector struct {
	server *live.Server

	ready, draining, nodes *prometheus.Desc

	gauges, counters []*prometheus.Desc // in the order of the tables of these names
	labelled         []*prometheus.Desc // in the order of labelledCounters
	times            []*prometheus.Desc // in the order of the table of this name
	writeSizes       *prometheus.Desc   // see Stats.WriteSizes
}

// New returns the Collector of a server, which the caller registers. labels are added to each metric.
// nil: none. Two servers of one process need different labels, such as {"server": "chat"}.
func New(server *live.Server, labels prometheus.Labels) *Collector {
	desc := func(name, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc("live_"+name, help, variable, labels)
	}
	c := &Collector{
		server:     server,
		ready:      desc("ready", "1 if the server takes new clients: it is not shutting down, and its broker is ready."),
		draining:   desc("draining", "1 if the server is shutting down."),
		nodes:      desc("nodes", "Servers of the broker that this server knows, itself included."),
		writeSizes: desc("write_frames", "Frames that went out in one write to a connection. The sum is the frames that were sent."),
	}
	for _, m := range gauges {
		c.gauges = append(c.gauges, desc(m.name, m.help))
	}
	for _, m := range counters {
		c.counters = append(c.counters, desc(m.name, m.help))
	}
	for _, m := range labelledCounters {
		c.labelled = append(c.labelled, desc(m.name, m.help, m.label))
	}
	for _, m := range times {
		c.times = append(c.times, desc(m.name, m.help))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.ready, c.draining, c.nodes, c.writeSizes} {
		descs <- d
	}
	for _, all := range [][]*prometheus.Desc{c.gauges, c.counters, c.labelled, c.times} {
		for _, d := range all {
			descs <- d
		}
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	ready, draining := c.state()
	metrics <- gauge(c.ready, ready)
	metrics <- gauge(c.draining, draining)
	metrics <- gauge(c.nodes, float64(len(c.server.Nodes())))
	c.collect(c.server.Stats(), metrics)
}

// state asks whether the server takes new clients, and whether it is shutting down.
func (c *Collector) state() (ready, draining float64) {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	switch err := c.server.Ready(ctx); {
	case err == nil:
		return 1, 0
	case errors.Is(err, live.ErrServerClosed):
		return 0, 1
	}
	return 0, 0
}

// collect hands over what is in Stats.
func (c *Collector) collect(st live.Stats, metrics chan<- prometheus.Metric) {
	for i, m := range gauges {
		metrics <- gauge(c.gauges[i], float64(m.value(&st)))
	}
	for i, m := range counters {
		metrics <- counter(c.counters[i], m.value(&st))
	}
	for i, m := range labelledCounters {
		for _, v := range m.values(&st) {
			metrics <- counter(c.labelled[i], v.count, v.label)
		}
	}
	for i, m := range times {
		metrics <- histogramOf(c.times[i], m.value(&st))
	}
	metrics <- histogram(c.writeSizes, st.WriteSizes[:], writeSizeBounds, float64(st.FramesSent))
}

var (
	durationBounds  = seconds(live.DurationBounds())
	writeSizeBounds = floats(live.WriteSizeBounds())
)

func seconds(all []time.Duration) (bounds []float64) {
	for _, d := range all {
		bounds = append(bounds, d.Seconds())
	}
	return bounds
}

func floats(all []int) (bounds []float64) {
	for _, n := range all {
		bounds = append(bounds, float64(n))
	}
	return bounds
}

func gauge(d *prometheus.Desc, value float64) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
}

func counter(d *prometheus.Desc, value uint64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

func histogramOf(d *prometheus.Desc, all live.Durations) prometheus.Metric {
	return histogram(d, all.Counts[:], durationBounds, math.Max(all.Sum.Seconds(), 0))
}

// histogram returns a histogram. Each of its buckets counts all values up to the bucket's bound.
func histogram(d *prometheus.Desc, counts []uint64, bounds []float64, sum float64) prometheus.Metric {
	buckets := make(map[float64]uint64, len(bounds))
	var n uint64
	for i, count := range counts {
		n += count
		if i < len(bounds) {
			buckets[bounds[i]] = n
		}
	}
	return prometheus.MustNewConstHistogram(d, n, sum, buckets)
}
