package inspector

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// A page of a large table has the rows that it would have if the whole table were sorted.
func TestPageHasTheRowsOfTheSortedTable(t *testing.T) {
	compare := func(a, b *int) int { return cmp.Compare(*a, *b) }
	for range 300 {
		all := rand.Perm(rand.IntN(700))
		switch rand.IntN(4) {
		case 0:
			slices.Sort(all)
		case 1:
			slices.Sort(all)
			slices.Reverse(all)
		case 2:
			for i := range all {
				all[i] %= 10
			}
		}
		want := slices.Sorted(slices.Values(all))
		n := 1 + rand.IntN(300)
		if got := smallest(slices.Clone(all), n, compare); !slices.Equal(got, want[:min(n, len(want))]) {
			t.Fatalf("the %d smallest of %v are %v", n, all, got)
		}
	}
}
