// Command release checks that others can use the modules of this repository, and prepares a
// release of them. Run it at the root of the repository:
//
//	go run ./release check
//	go run ./release prepare v0.2.0
//
// It has a go.mod of its own, so that users of the library get none of its dependencies.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// The modules that are released, always together and with one version.
const (
	root        = "github.com/livetopic/livetopic"
	natsbroker  = root + "/live/natsbroker"
	livemetrics = root + "/live/livemetrics"
	livetrace   = root + "/live/livetrace"
)

// released has the modules in the order in which they are tagged.
var released = []string{root, natsbroker, livemetrics, livetrace}

// folderOf returns the folder of a released module; "" for the root.
func folderOf(module string) string {
	return strings.TrimPrefix(strings.TrimPrefix(module, root), "/")
}

// tagsOf returns the tags of a release, one for each module. The go command wants the folder before the version.
func tagsOf(version string) (tags []string) {
	for _, module := range released {
		tags = append(tags, path.Join(folderOf(module), version))
	}
	return tags
}

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
		fmt.Print(nextSteps(version))
		return nil
	}
	return errors.New("usage: release check | release prepare vX.Y.Z")
}

// nextSteps returns what the program prints at its end: the commands that the maintainer runs after reading the changes.
func nextSteps(version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nThe files name %[1]s. Read the changes with git diff. Then:\n\n\tgit commit -a -m \"Release %[1]s\"\n", version)
	for _, tag := range tagsOf(version) {
		fmt.Fprintf(&b, "\tgit tag -a -m %s %s\n", version, tag)
	}
	fmt.Fprintf(&b, "\tgit push --atomic origin HEAD %s\n\tnpm publish ./client\n", strings.Join(tagsOf(version), " "))
	return b.String()
}

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
	tags, err := git(repository, append([]string{"tag", "--list"}, tagsOf(version)...)...)
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
