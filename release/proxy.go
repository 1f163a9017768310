package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// writeProxy writes a module proxy of files, with the released modules as they are in the
// working tree. They have the version and no other.
func writeProxy(proxy, repository, version string) error {
	listed, err := git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return err
	}
	tree := strings.Split(strings.TrimRight(listed, "\x00"), "\x00")
	for _, path := range released {
		if err := writeModule(filepath.Join(proxy, path, "@v"), path, version, repository, folderOf(path), tree); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// writeModule writes the four files of one version. What a proxy tells of a module is at
// https://go.dev/ref/mod#goproxy-protocol.
func writeModule(to, path, version, repository, folder string, tree []string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC()})
	if err != nil {
		return err
	}
	goMod, err := os.ReadFile(filepath.Join(repository, folder, "go.mod"))
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"list": []byte(version + "\n"), version + ".info": info, version + ".mod": goMod} {
		if err := os.WriteFile(filepath.Join(to, name), content, 0o644); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(to, version+".zip"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := zip.Create(f, module.Version{Path: path, Version: version}, filesOf(repository, folder, tree)); err != nil {
		return err
	}
	return f.Close()
}

// filesOf returns a module's files. Those of modules below it are left out, and a module
// without a licence gets that of the repository: the go command does both.
func filesOf(repository, folder string, tree []string) []zip.File {
	var below []string
	for _, name := range tree {
		if dir, isModule := strings.CutSuffix(name, "/go.mod"); isModule && dir != folder {
			below = append(below, dir+"/")
		}
	}
	var files []zip.File
	licensed := false
	for _, name := range tree {
		inside, isOurs := name, true
		if folder != "" {
			inside, isOurs = strings.CutPrefix(name, folder+"/")
		}
		for _, dir := range below {
			isOurs = isOurs && (!strings.HasPrefix(name, dir) || strings.HasPrefix(folder+"/", dir))
		}
		if _, err := os.Lstat(filepath.Join(repository, name)); isOurs && err == nil { // git lists removed files too
			files = append(files, treeFile{repository, name, inside})
			licensed = licensed || inside == "LICENSE"
		}
	}
	if !licensed {
		files = append(files, treeFile{repository, "LICENSE", "LICENSE"})
	}
	return files
}

// treeFile is a file of the working tree, for package zip.
type treeFile struct{ repository, name, inside string }

func (f treeFile) Path() string                 { return f.inside }
func (f treeFile) Lstat() (os.FileInfo, error)  { return os.Lstat(filepath.Join(f.repository, f.name)) }
func (f treeFile) Open() (io.ReadCloser, error) { return os.Open(filepath.Join(f.repository, f.name)) }
