package main

import (
	"math"
	"testing"
)

func same(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{nil, math.NaN()},
		{[]float64{7}, 7},
		{[]float64{9, 1}, 5},
		{[]float64{100, 1, 3}, 3},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(c.values); !same(got, c.want) {
			t.Errorf("median of %v is %v, want %v", c.values, got, c.want)
		}
	}
	values := []float64{3, 1, 2}
	median(values)
	if values[0] != 3 || values[1] != 1 {
		t.Errorf("median changed its argument to %v", values)
	}
}

func TestRatio(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct{ a, b, want float64 }{
		{3, 2, 1.5}, {0, 2, 0}, {1, 0, nan}, {nan, 1, nan}, {1, nan, nan},
	} {
		if got := ratio(c.a, c.b); !same(got, c.want) {
			t.Errorf("ratio of %v to %v is %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	samples := make([]int64, 1000)
	for i := range samples {
		samples[i] = int64(i + 1)
	}
	for _, c := range []struct{ p, want float64 }{
		{0, 1}, {50, 500}, {99, 990}, {99.9, 999}, {100, 1000},
	} {
		if got := percentile(samples, c.p); got != c.want {
			t.Errorf("percentile %v is %v, want %v", c.p, got, c.want)
		}
	}
	if got := percentile(nil, 99); !math.IsNaN(got) {
		t.Errorf("percentile of nothing is %v", got)
	}
}

func TestFiguresAsText(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 7.5: "8", 999: "999", 1000: "1,000", 1234567.4: "1,234,567", -1500: "-1,500", math.NaN(): absent,
	} {
		if got := wholeText(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
	if got := kiloText(8704); got != "8.5" {
		t.Errorf("8704 bytes are %q", got)
	}
	if got := ratioText(math.Inf(1)); got != absent {
		t.Errorf("infinity is %q", got)
	}
}
