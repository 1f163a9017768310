package main

import (
	"math"

	"github.com/livetopic/livetopic/bench/server"
)

// results are what all rounds of one workload yielded.
type results struct {
	workload workload
	kinds    []server.Kind
	runs     map[cell][]figures
	failures map[cell]error
}

// cell is one server in one case.
type cell struct {
	server string
	at     int
}

func newResults(w workload, kinds []server.Kind) results {
	return results{w, kinds, map[cell][]figures{}, map[cell]error{}}
}

func (r results) add(kind server.Kind, at int, f figures, err error) {
	c := cell{kind.Name, at}
	if err != nil {
		r.failures[c] = err
		return
	}
	r.runs[c] = append(r.runs[c], f)
}

func (r results) failed(kind server.Kind, at int) bool {
	return r.failures[cell{kind.Name, at}] != nil
}

// values of one figure in all rounds; none when the server failed in any.
func (r results) values(kind server.Kind, at int, of func(figures) float64) []float64 {
	if r.failed(kind, at) {
		return nil
	}
	var v []float64
	for _, f := range r.runs[cell{kind.Name, at}] {
		v = append(v, of(f))
	}
	return v
}

// median of one figure over the rounds; NaN when the server failed in any.
func (r results) median(kind server.Kind, at int, of func(figures) float64) float64 {
	return median(r.values(kind, at, of))
}

// best returns the server with the least median among those of a role; NaN when
// there is none.
func (r results) best(role server.Role, at int, of func(figures) float64) (name string, value float64) {
	value = math.NaN()
	for _, kind := range r.kinds {
		if kind.Role != role {
			continue
		}
		if m := r.median(kind, at, of); !math.IsNaN(m) && (math.IsNaN(value) || m < value) {
			name, value = kind.Name, m
		}
	}
	return name, value
}
