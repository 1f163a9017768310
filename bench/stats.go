package main

import (
	"math"
	"slices"
)

// median of the values, which it leaves alone; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	middle := len(v) / 2
	if len(v)%2 == 1 {
		return v[middle]
	}
	return (v[middle-1] + v[middle]) / 2
}

// ratio of a to b; NaN when there is nothing to divide by.
func ratio(a, b float64) float64 {
	if b == 0 || math.IsNaN(a) || math.IsNaN(b) {
		return math.NaN()
	}
	return a / b
}

// percentile of sorted samples, by the nearest rank; NaN of none.
func percentile(sorted []int64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	const slack = 1e-6 // 99.9 is a little more in binary
	rank := int(math.Ceil(p*float64(len(sorted))/100 - slack))
	return float64(sorted[min(max(rank, 1), len(sorted))-1])
}
