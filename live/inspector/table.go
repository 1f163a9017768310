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

// tableOf sorts the rows that a search has found, and takes a page of them. Rows that are equal in the
// column come in the order of tie, so that they keep their places from one look to the next.
func tableOf[T any](q *query, found []T, total int, orders map[string]order[T], tie order[T]) table[T] {
	compare, known := orders[q.sort]
	if !known {
		compare = tie
	}
	sign := 1
	if q.descending {
		sign = -1
	}
	slices.SortFunc(found, func(a, b T) int {
		if c := sign * compare(&a, &b); c != 0 {
			return c
		}
		return tie(&a, &b)
	})
	pages := max((len(found)+pageSize-1)/pageSize, 1)
	page := min(q.page, pages-1)
	from := page * pageSize
	return table[T]{
		Total:   total,
		Matched: len(found),
		Page:    page,
		Pages:   pages,
		Rows:    append([]T{}, found[from:min(from+pageSize, len(found))]...), // never null in JSON
	}
}
