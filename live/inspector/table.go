package inspector

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// pageSize is how many rows a table has at once. A person reads no more, and they take 20 KB.
const pageSize = 100

// query says which rows of a table a person wants to see.
type query struct {
	search     string // in lower case; "": all
	sort       string // a column; "": the first of the table's orders
	descending bool
	page       int // from 0
}

func queryOf(r *http.Request) query {
	q := r.URL.Query()
	page, _ := strconv.Atoi(q.Get("page")) // 0 if it is no number
	return query{
		search:     strings.ToLower(q.Get("search")),
		sort:       q.Get("sort"),
		descending: q.Get("desc") == "1",
		page:       max(page, 0),
	}
}

// finds reports whether one of the texts contains what is searched for.
func (q *query) finds(texts ...string) bool {
	if q.search == "" {
		return true
	}
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(strings.ToLower(text), q.search) })
}

// table is a page of rows.
type table[T any] struct {
	Total   int `json:"total"`   // rows without a search
	Matched int `json:"matched"` // rows that the search has found
	Page    int `json:"page"`    // from 0
	Pages   int `json:"pages"`   // 1 at least
	Rows    []T `json:"rows"`
}

// order compares two rows by a column.
type order[T any] = func(a, b *T) int

// tableOf takes a page of the rows that a search has found, in the order of a column. Rows that are
// equal in the column come in the order of tie, so that they keep their places from one look to the
// next. tableOf changes the slice found.
func tableOf[T any](q *query, found []T, total int, orders map[string]order[T], tie order[T]) table[T] {
	compare, known := orders[q.sort]
	if !known {
		compare = tie
	}
	sign := 1
	if q.descending {
		sign = -1
	}
	matched := len(found)
	pages := max((matched+pageSize-1)/pageSize, 1)
	page := min(q.page, pages-1)
	from := page * pageSize
	first := smallest(found, from+pageSize, func(a, b *T) int {
		if c := sign * compare(a, b); c != 0 {
			return c
		}
		return tie(a, b)
	})
	return table[T]{
		Total:   total,
		Matched: matched,
		Page:    page,
		Pages:   pages,
		Rows:    append([]T{}, first[from:]...), // never null in JSON
	}
}

// smallest returns the n smallest rows in their order, or all if there are fewer. It does so in place.
// To sort ten thousand rows for one page would be most of what a look costs.
func smallest[T any](all []T, n int, compare order[T]) []T {
	sort := func(rows []T) { slices.SortFunc(rows, func(a, b T) int { return compare(&a, &b) }) }
	kept := all[:0] // never ahead of what is read
	sorted := false // the first n of kept are the smallest so far, in their order
	for i := range all {
		if sorted && compare(&all[i], &kept[n-1]) >= 0 {
			continue
		}
		kept = append(kept, all[i])
		if len(kept) == 2*n {
			sort(kept)
			kept, sorted = kept[:n], true
		}
	}
	sort(kept)
	return kept[:min(n, len(kept))]
}
