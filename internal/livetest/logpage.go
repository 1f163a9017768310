package livetest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// LogPage checks that a page has a row for each message that the package in a folder logs, with its
// level, and for no other. The messages of the package begin with a prefix, such as "live: ". A row is
//
//	| Warn | `live: not ready` | what it means |
//
// A part of a message that the code computes is "…" on the page. If the level is computed, the row may
// have any.
func LogPage(t *testing.T, folder, prefix, page string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| ([A-Z][A-Za-z, ]*) \\| `("+prefix+"[^`]*)` \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		if _, twice := rows[row[2]]; twice {
			t.Errorf("%s has two rows for %q", page, row[2])
		}
		rows[row[2]] = row[1]
	}
	logged := logMessages(t, folder, prefix)
	for message, level := range logged {
		switch on, ok := rows[message]; {
		case !ok:
			t.Errorf("%s has no row for %s %q", page, level, message)
		case level != "" && on != level:
			t.Errorf("%s has the level %s for %q, which is logged with %s", page, on, message, level)
		}
	}
	for message := range rows {
		if _, ok := logged[message]; !ok {
			t.Errorf("%s has a row for %q, which is not logged", page, message)
		}
	}
	if len(logged) == 0 {
		t.Errorf("no message found in %s", folder)
	}
}

// logLevels has the level of each function that logs. "": it is an argument.
var logLevels = map[string]string{
	"Debug": "Debug", "Info": "Info", "Warn": "Warn", "Error": "Error", "logOnce": "Info", "logAction": "Info",
	"Log": "", "logOfClient": "", "logLimited": "",
}

// logMessages returns the messages that the package in a folder logs, with their levels. A message is an
// argument of a function that logs, or stands beside its level in a table.
func logMessages(t *testing.T, folder, prefix string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	note := func(parts []ast.Expr, level string) {
		for _, part := range parts {
			if message := messageOf(part); strings.HasPrefix(message, prefix) {
				if level == "" {
					level = levelIn(parts)
				}
				found[message] = level
			}
		}
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if called, ok := n.Fun.(*ast.SelectorExpr); ok {
					if level, ok := logLevels[called.Sel.Name]; ok {
						note(n.Args, level)
					}
				}
			case *ast.CompositeLit:
				if len(n.Elts) == 2 && levelIn(n.Elts[:1]) != "" {
					note(n.Elts, "")
				}
			}
			return true
		})
	}
	return found
}

// messageOf returns the value of a string that is written in the code. What is computed is "…".
func messageOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, _ := strconv.Unquote(e.Value)
			return text
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return messageOf(e.X) + messageOf(e.Y)
		}
	}
	return "…"
}

// levelIn returns the level that expressions name, such as slog.LevelInfo; "": they name none.
func levelIn(all []ast.Expr) (level string) {
	for _, e := range all {
		if call, ok := e.(*ast.CallExpr); ok {
			if level := levelIn(call.Args); level != "" {
				return level
			}
		}
		if s, ok := e.(*ast.SelectorExpr); ok {
			if name, ok := strings.CutPrefix(s.Sel.Name, "Level"); ok {
				return name
			}
		}
	}
	return ""
}
