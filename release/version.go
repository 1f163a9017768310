package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// clientVersion finds the version in each file of the client that states it. The constant in client.go is
// public, so it counts as the version of the repository: the version of the last release, or before that of the
// first one.
var clientVersion = map[string]*regexp.Regexp{
	"client/client.go":         regexp.MustCompile(`(?m)^(const Version = ")([0-9][^"]*)(")$`),
	"client/package.json":      regexp.MustCompile(`(?m)^(  "version": ")([0-9][^"]*)(",)$`),
	"client/package-lock.json": regexp.MustCompile(`(?s)("name": "livetopic",\s*"version": ")([0-9][^"]*)(",)`),
}

func currentVersion(repository string) (string, error) {
	const file = "client/client.go"
	text, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		return "", err
	}
	found := clientVersion[file].FindSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("%s states no version", file)
	}
	return "v" + string(found[2]), nil
}

// canFollow returns an error if no release may have the version after the current one. From
// v2 on the paths of the modules would have to end with /v2.
func canFollow(version, current string) error {
	switch {
	case semver.Canonical(version) != version:
		return fmt.Errorf("%q is not of the form vX.Y.Z", version)
	case semver.Compare(version, current) < 0:
		return fmt.Errorf("%s is less than %s", version, current)
	case semver.Compare(version, "v2.0.0-0") >= 0:
		return fmt.Errorf("the module paths do not allow %s", version)
	}
	return nil
}

// setVersion has all files name the version.
func setVersion(repository, version string) error {
	modules, err := filepath.Glob(filepath.Join(repository, "*/go.mod"))
	if err != nil {
		return err
	}
	for _, module := range released[1:] { // the root requires none of ours
		modules = append(modules, filepath.Join(repository, folderOf(module), "go.mod"))
	}
	for _, file := range modules {
		if err := rewrite(file, func(text []byte) ([]byte, error) { return setRequirements(file, text, version) }); err != nil {
			return err
		}
	}
	for file, pattern := range clientVersion {
		err := rewrite(filepath.Join(repository, file), func(text []byte) ([]byte, error) {
			if !pattern.Match(text) {
				return nil, fmt.Errorf("%s states no version", file)
			}
			return pattern.ReplaceAll(text, []byte("${1}"+version[1:]+"${3}")), nil
		})
		if err != nil {
			return err
		}
	}
	return rewrite(filepath.Join(repository, "CHANGELOG.md"), func(text []byte) ([]byte, error) {
		return releaseChanges(text, version, time.Now())
	})
}

func rewrite(file string, change func([]byte) ([]byte, error)) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := change(text)
	if err != nil || bytes.Equal(text, changed) {
		return err
	}
	return os.WriteFile(file, changed, 0o644)
}

// setRequirements sets the version of our modules in a go.mod that requires them. A module that is never
// released gets it too, because go mod tidy would set it.
func setRequirements(file string, text []byte, version string) ([]byte, error) {
	module, err := modfile.Parse(file, text, nil)
	if err != nil {
		return nil, err
	}
	for _, path := range released {
		if slices.ContainsFunc(module.Require, func(r *modfile.Require) bool { return r.Mod.Path == path }) {
			if err := module.AddRequire(path, version); err != nil {
				return nil, err
			}
		}
	}
	return module.Format()
}

// releaseChanges moves the entries under "Unreleased" to the version.
func releaseChanges(text []byte, version string, day time.Time) ([]byte, error) {
	const heading = "## [Unreleased]\n"
	before, after, found := bytes.Cut(text, []byte(heading))
	if !found || len(bytes.TrimSpace(after)) == 0 || bytes.HasPrefix(bytes.TrimSpace(after), []byte("## ")) {
		return nil, errors.New("CHANGELOG.md has nothing under [Unreleased]")
	}
	return fmt.Appendf(nil, "%s%s\n## [%s] - %s\n%s", before, heading, version[1:], day.Format(time.DateOnly), after), nil
}
