package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// consumer is a program in testdata, as a user of the library writes it: a module outside the repository.
type consumer struct {
	name    string
	modules []string // of ours
	others  []string // which it requires itself
	never   string   // occurs in no path of its build list
}

var consumers = []consumer{
	{name: "live", modules: []string{root}, never: "nats"},
	{name: "natsbroker", modules: []string{root, natsbroker}, never: "prometheus"},
	{name: "livemetrics", modules: []string{root, livemetrics}, never: "nats"},
	{name: "livetrace", modules: []string{root, livetrace}, never: "nats"},
	// Newer versions of this driver cannot be tidied.
	{name: "websession", modules: []string{root}, others: []string{"modernc.org/sqlite v1.50.0"}, never: "nats"},
}

// check builds and runs the consumers with the working tree, as if it were released with the
// version.
func check(repository, version string) error {
	temp, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	proxy := filepath.Join(temp, "proxy")
	if err := writeProxy(proxy, repository, version); err != nil {
		return err
	}
	environment, err := outside(temp, proxy)
	if err != nil {
		return err
	}
	for _, c := range consumers {
		start := time.Now()
		if err := c.run(filepath.Join(temp, c.name), repository, version, environment); err != nil {
			return fmt.Errorf("consumer %s of %s: %w", c.name, version, err)
		}
		fmt.Printf("consumer %s of %s: ok, %.1f s\n", c.name, version, time.Since(start).Seconds())
	}
	return nil
}

// outside returns the environment of a user who has nothing of this repository.
//
// The module cache is empty, because the same version had other files in the last check. Modules of
// other people come from the ordinary cache, as from a proxy. The build cache is the ordinary
// one: with -trimpath its entries do not depend on where the module cache is.
//
// The checksum database does not know our version. go.sum has the sums of other people's modules.
func outside(temp, proxy string) ([]string, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	lines := strings.Split(string(out), "\n")
	proxies := []string{
		"file://" + filepath.ToSlash(proxy),
		"file://" + filepath.ToSlash(filepath.Join(lines[0], "cache", "download")),
		lines[1],
	}
	return append(os.Environ(),
		"GOWORK=off",
		"GOFLAGS=-mod=mod -modcacherw -trimpath -buildvcs=false",
		"GOMODCACHE="+filepath.Join(temp, "modules"),
		"GOPROXY="+strings.Join(proxies, ","),
		"GONOPROXY=none", "GOPRIVATE=", "GOSUMDB=off",
	), nil
}

// run makes the consumer's module, tidies it, looks at its build list, and runs it.
func (c consumer) run(folder, repository, version string, environment []string) error {
	program, err := os.ReadFile(filepath.Join(repository, "release/testdata", c.name, "main.go"))
	if err != nil {
		return err
	}
	sums, err := os.ReadFile(filepath.Join(repository, "examples/go.sum"))
	if err != nil {
		return err
	}
	goMod := "module example.com/consumer\n\ngo 1.26\n"
	for _, path := range c.modules {
		goMod += fmt.Sprintf("\nrequire %s %s\n", path, version)
	}
	for _, other := range c.others {
		goMod += fmt.Sprintf("\nrequire %s\n", other)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"main.go": program, "go.mod": []byte(goMod), "go.sum": sums} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return err
		}
	}
	do := func(args ...string) (string, error) {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = folder, environment
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return string(out), nil
	}
	if _, err := do("mod", "tidy"); err != nil {
		return err
	}
	list, err := do("list", "-m", "all")
	if err != nil {
		return err
	}
	if err := c.judge(strings.Split(strings.TrimSpace(list), "\n"), version); err != nil {
		return err
	}
	_, err = do("run", ".")
	return err
}

// judge checks the build list, without the consumer itself. Our modules must have the version. Modules that
// the consumer must never get may not be there.
func (c consumer) judge(list []string, version string) error {
	var ours []string
	for _, line := range list[1:] {
		path, _, _ := strings.Cut(line, " ")
		if c.never != "" && strings.Contains(path, c.never) {
			return errors.New("its build list has " + line)
		}
		if path == root || strings.HasPrefix(path, root+"/") {
			ours = append(ours, line)
		}
	}
	var want []string
	for _, path := range c.modules {
		want = append(want, path+" "+version)
	}
	if !slices.Equal(ours, want) {
		return fmt.Errorf("of ours, its build list has %q, want %q", ours, want)
	}
	return nil
}
