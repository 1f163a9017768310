package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// copied is a folder with the files of the repository that name the version.
func copied(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{
		"live/natsbroker/go.mod", "live/livemetrics/go.mod", "live/livetrace/go.mod", "bench/go.mod", "examples/go.mod", "interop/go.mod",
		"client/client.go", "client/package.json", "client/package-lock.json", "CHANGELOG.md",
	} {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestAReleaseHasItsVersionEverywhere(t *testing.T) {
	folder := copied(t)
	if err := setVersion(folder, "v0.98.7"); err != nil {
		t.Fatal(err)
	}
	if current, err := currentVersion(folder); err != nil || current != "v0.98.7" {
		t.Errorf("current %q, error %v", current, err)
	}
	for name, want := range map[string]string{
		"live/livemetrics/go.mod":  root + " v0.98.7\n",
		"live/livetrace/go.mod":    root + " v0.98.7\n",
		"live/natsbroker/go.mod":   root + " v0.98.7\n",
		"bench/go.mod":             natsbroker + " v0.98.7\n",
		"examples/go.mod":          root + " v0.98.7\n",
		"interop/go.mod":           root + " v0.98.7\n",
		"client/package.json":      `"version": "0.98.7"`,
		"client/package-lock.json": `"version": "0.98.7"`,
		"CHANGELOG.md":             "## [0.98.7] - ",
	} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s does not say %q, error %v", name, want, err)
		}
	}
	// The lockfile also has the names and versions of packages that the tests use.
	lock, err := os.ReadFile(filepath.Join(folder, "client/package-lock.json"))
	if err != nil || strings.Count(string(lock), `"0.98.7"`) != 2 {
		t.Errorf("package-lock.json has the version %d times, want 2, error %v", strings.Count(string(lock), `"0.98.7"`), err)
	}
}

func TestAVersionThatCannotFollowIsRefused(t *testing.T) {
	for version, fits := range map[string]bool{
		"v0.2.0": true, "v0.3.0": true, "v1.0.0-rc.1": true,
		"v0.1.9": false, "0.3.0": false, "v0.3": false, "v2.0.0": false, "v2.0.0-rc.1": false,
	} {
		if err := canFollow(version, "v0.2.0"); (err == nil) != fits {
			t.Errorf("%s: error %v", version, err)
		}
	}
}

func TestAReleaseWithoutChangesIsRefused(t *testing.T) {
	const text = "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-01-02\n\n- One.\n"
	if _, err := releaseChanges([]byte(text), "v0.2.0", time.Now()); err == nil {
		t.Error("a release without changes is accepted")
	}
}

func TestAModuleHasNoFilesOfTheModulesBelowIt(t *testing.T) {
	tree := []string{"LICENSE", "README.md", "go.mod", "live/doc.go", "live/natsbroker/doc.go", "live/natsbroker/go.mod", "live/livemetrics/go.mod", "live/livemetrics/alerts.yml", "bench/go.mod", "bench/main.go"}
	for path, want := range map[string]string{
		root:        "LICENSE README.md go.mod live/doc.go",
		natsbroker:  "doc.go go.mod LICENSE",
		livemetrics: "go.mod alerts.yml LICENSE",
	} {
		folder := t.TempDir()
		for _, name := range tree {
			os.MkdirAll(filepath.Join(folder, filepath.Dir(name)), 0o755)
			if err := os.WriteFile(filepath.Join(folder, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, f := range filesOf(folder, folderOf(path), tree) {
			got = append(got, f.Path())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
}

// A maintainer copies the commands. A tag that is missing leaves a module without a release.
func TestEachModuleIsTagged(t *testing.T) {
	want := []string{"v0.98.7", "live/natsbroker/v0.98.7", "live/livemetrics/v0.98.7", "live/livetrace/v0.98.7"}
	if got := tagsOf("v0.98.7"); !slices.Equal(got, want) {
		t.Errorf("the tags are %q, want %q", got, want)
	}
	steps := nextSteps("v0.98.7")
	for _, tag := range want {
		if !strings.Contains(steps, "git tag -a -m v0.98.7 "+tag+"\n") {
			t.Errorf("the steps do not make the tag %s:\n%s", tag, steps)
		}
	}
	if !strings.Contains(steps, "git push --atomic origin HEAD "+strings.Join(want, " ")+"\n") {
		t.Errorf("the steps do not push all tags:\n%s", steps)
	}
}

func TestABuildListWithAnotherVersionOrNATSIsRefused(t *testing.T) {
	c := consumer{modules: []string{root}, never: "nats"}
	for list, fits := range map[string]bool{
		"example.com/consumer|" + root + " v0.2.0":                                   true,
		"example.com/consumer|" + root + " v0.1.0":                                   false,
		"example.com/consumer":                                                       false,
		"example.com/consumer|github.com/nats-io/nats.go v1.0.0|" + root + " v0.2.0": false,
	} {
		if err := c.judge(strings.Split(list, "|"), "v0.2.0"); (err == nil) != fits {
			t.Errorf("%s: error %v", list, err)
		}
	}
}
