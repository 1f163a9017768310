package livetopic_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateAPI = flag.Bool("update-api", false, "write the exported names to testdata/api")

// The exported names of the packages that users import are those of testdata/api. So a change of the
// public API is seen in its commit:
//
//	go test -run TestPublicAPI -update-api .
func TestPublicAPI(t *testing.T) {
	for _, dir := range publicPackages(t) {
		file := filepath.Join("testdata", "api", strings.ReplaceAll(dir, "/", "_")+".txt")
		got := publicAPI(t, dir)
		if *updateAPI {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%s is a new package: %v", dir, err)
			continue
		}
		old, new := strings.Split(string(want), "\n"), strings.Split(got, "\n")
		for _, line := range old {
			if !slices.Contains(new, line) {
				t.Errorf("%s: gone or changed: %s", dir, line)
			}
		}
		for _, line := range new {
			if !slices.Contains(old, line) {
				t.Errorf("%s: new: %s", dir, line)
			}
		}
	}
}

// Every exported function, type, method and field has a comment. A field may share the comment of the
// field before it, if the comment names both.
func TestExportedNamesAreDocumented(t *testing.T) {
	for _, dir := range publicPackages(t) {
		pkg, _ := parsePackage(t, dir)
		check := func(name, comment string) {
			t.Helper()
			if strings.TrimSpace(comment) == "" {
				t.Errorf("%s: %s has no comment", dir, name)
			}
		}
		check("package "+pkg.Name, pkg.Doc)
		for _, f := range pkg.Funcs {
			check(f.Name, f.Doc)
		}
		for _, typ := range pkg.Types {
			check(typ.Name, typ.Doc)
			if kind, ok := typ.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType); ok {
				var comment string // of this field, or the one before it that names this field too
				for _, field := range kind.Fields.List {
					for _, name := range field.Names {
						if own := field.Doc.Text() + field.Comment.Text(); own != "" || !strings.Contains(comment, name.Name) {
							comment = own
						}
						if name.IsExported() {
							check(typ.Name+"."+name.Name, comment)
						}
					}
				}
			}
			for _, f := range slices.Concat(typ.Funcs, typ.Methods) {
				check(typ.Name+"."+f.Name, f.Doc)
			}
		}
	}
}

// publicPackages returns the folders of the packages that users import.
func publicPackages(t *testing.T) []string {
	t.Helper()
	dirs := []string{"client"}
	all, err := filepath.Glob("live/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	deeper, _ := filepath.Glob("live/*/*/*.go")
	own, _ := filepath.Glob("live/*.go")
	for _, file := range slices.Concat(own, all, deeper) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if !strings.Contains(dir, "/internal") && !strings.Contains(dir, "/testdata") && !slices.Contains(dirs, dir) && !strings.HasSuffix(file, "_test.go") {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// parsePackage returns the documentation of a package, of the files for Linux.
func parsePackage(t *testing.T, dir string) (*doc.Package, *token.FileSet) {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "_windows.go") || strings.HasSuffix(name, "_other.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if file.Name.Name != "main" {
			files = append(files, file)
		}
	}
	pkg, err := doc.NewFromFiles(fset, files, "github.com/livetopic/livetopic/"+dir)
	if err != nil {
		t.Fatal(dir, ": ", err)
	}
	return pkg, fset
}

// publicAPI returns a line for each exported name of a package, with its type.
func publicAPI(t *testing.T, dir string) string {
	t.Helper()
	pkg, fset := parsePackage(t, dir)
	var lines []string
	add := func(prefix string, node ast.Node) {
		var b bytes.Buffer
		if err := (&printer.Config{Mode: printer.RawFormat}).Fprint(&b, fset, node); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, prefix+strings.Join(strings.Fields(b.String()), " "))
	}
	function := func(f *doc.Func) {
		decl := *f.Decl
		decl.Body, decl.Doc = nil, nil
		add("", &decl)
	}
	values := func(all []*doc.Value) {
		for _, v := range all {
			for _, spec := range v.Decl.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if name.IsExported() {
						lines = append(lines, v.Decl.Tok.String()+" "+name.Name)
					}
				}
			}
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	for _, f := range pkg.Funcs {
		function(f)
	}
	for _, typ := range pkg.Types {
		spec := typ.Decl.Specs[0].(*ast.TypeSpec)
		prefix := "type " + typ.Name + " "
		switch kind := spec.Type.(type) {
		case *ast.StructType:
			lines = append(lines, prefix+"struct")
			members(kind.Fields, prefix, add)
		case *ast.InterfaceType:
			lines = append(lines, prefix+"interface")
			members(kind.Methods, prefix, add)
		default:
			add(prefix, spec.Type)
		}
		values(typ.Consts)
		values(typ.Vars)
		for _, f := range slices.Concat(typ.Funcs, typ.Methods) {
			function(f)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// members adds a line for each field of a struct, or method of an interface.
func members(fields *ast.FieldList, prefix string, add func(string, ast.Node)) {
	for _, field := range fields.List {
		if len(field.Names) == 0 {
			add(prefix+"has ", field.Type)
		}
		for _, name := range field.Names {
			if name.IsExported() {
				add(prefix+name.Name+" ", field.Type)
			}
		}
	}
}
