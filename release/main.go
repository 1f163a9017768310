// Command release checks that others can use the modules of this repository, and prepares a
// release of them. Run it at the root of the repository:
//
//	go run ./release check
//	go run ./release prepare v0.2.0
//
// It has a go.mod of its own, so that nobody who uses the library needs what it needs.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The modules that are released, always together and with one version.
const (
	root        = "github.com/livetopic/livetopic"
	natsbroker  = root + "/live/natsbroker"
	livemetrics = root + "/live/livemetrics"
)

// folders says where the released modules are.
var folders = map[string]string{root: ".", natsbroker: "live/natsbroker", livemetrics: "live/livemetrics"}

func main() {
	if err := run(".", os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(repository string, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "check":
		version, err := currentVersion(repository)
		if err != nil {
			return err
		}
		return check(repository, version)
	case len(args) == 2 && args[0] == "prepare":
		version := args[1]
		if err := mayRelease(repository, version); err != nil {
			return err
		}
		if err := setVersion(repository, version); err != nil {
			return err
		}
		if err := check(repository, version); err != nil {
			return err
		}
		fmt.Printf(nextSteps, version)
		return nil
	}
	return errors.New("usage: release check | release prepare vX.Y.Z")
}

// nextSteps are left to the maintainer, who reads the changes first.
const nextSteps = `
The files name %[1]s. Read the changes with git diff. Then:

	git commit -a -m "Release %[1]s"
	git tag -a -m %[1]s %[1]s
	git tag -a -m %[1]s live/natsbroker/%[1]s
	git tag -a -m %[1]s live/livemetrics/%[1]s
	git push --atomic origin HEAD %[1]s live/natsbroker/%[1]s live/livemetrics/%[1]s
	npm publish ./client
`

// mayRelease returns an error if the version cannot follow, or if the commit of the release
// would contain other changes.
func mayRelease(repository, version string) error {
	current, err := currentVersion(repository)
	if err != nil {
		return err
	}
	if err := canFollow(version, current); err != nil {
		return err
	}
	tags, err := git(repository, "tag", "--list", version, "live/natsbroker/"+version, "live/livemetrics/"+version)
	if err != nil {
		return err
	}
	if tags != "" {
		return fmt.Errorf("the tag exists: %s", strings.Join(strings.Fields(tags), " "))
	}
	changes, err := git(repository, "status", "--porcelain")
	if err == nil && changes != "" {
		err = errors.New("there are changes that are not committed")
	}
	return err
}

// git runs git also where the folder belongs to another user, as in some containers.
func git(repository string, args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...)
	cmd.Dir = filepath.Clean(repository)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w %s", args[0], err, stderr.String())
	}
	return string(out), nil
}
