package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// tag is the build tag of tests that need root and a kernel to themselves.
const tag = "privileged"

// testPackage is a package with privileged tests, and their binary.
type testPackage struct {
	ImportPath string
	Dir        string
	// Tests are the names of the top-level test functions in files that only
	// the build tag brings in. The package's other tests need no particular
	// kernel; the race detector runs them elsewhere.
	Tests  []string
	Binary string
}

// listed is what this program reads of go list's answer.
type listed struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
}

func (l listed) files() []string { return slices.Concat(l.TestGoFiles, l.XTestGoFiles) }

// findPackages returns the packages that match the patterns and have
// privileged tests, in the order of go list.
func findPackages(ctx context.Context, root string, patterns []string) ([]testPackage, error) {
	tagged, err := list(ctx, root, append([]string{"-tags", tag}, patterns...))
	if err != nil {
		return nil, err
	}
	plain, err := list(ctx, root, append([]string{"-e"}, patterns...))
	if err != nil {
		return nil, err
	}
	unprivileged := map[string]bool{}
	for _, l := range plain {
		for _, f := range l.files() {
			unprivileged[filepath.Join(l.Dir, f)] = true
		}
	}
	var found []testPackage
	for _, l := range tagged {
		p := testPackage{ImportPath: l.ImportPath, Dir: l.Dir}
		for _, f := range l.files() {
			path := filepath.Join(l.Dir, f)
			if unprivileged[path] {
				continue
			}
			names, err := testNames(path)
			if err != nil {
				return nil, err
			}
			p.Tests = append(p.Tests, names...)
		}
		if len(p.Tests) > 0 {
			found = append(found, p)
		}
	}
	return found, nil
}

func list(ctx context.Context, root string, arguments []string) ([]listed, error) {
	arguments = append([]string{"list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, arguments...)
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = root
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	var all []listed
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var l listed
		if err := decoder.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading go list's answer: %w", err)
		}
		all = append(all, l)
	}
}

// testNames returns the test functions of a file, as go vet knows them.
func testNames(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("reading tests: %w", err)
	}
	var names []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || f.Name.Name == "TestMain" {
			continue
		}
		if rest, ok := strings.CutPrefix(f.Name.Name, "Test"); ok && (rest == "" || !isLower(rest[0])) {
			names = append(names, f.Name.Name)
		}
	}
	return names, nil
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }

// compile builds the test binary of each package into dir, static, so that it
// runs in any guest.
func compile(ctx context.Context, root, dir string, packages []testPackage) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the test binaries: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i := range packages {
		p := &packages[i]
		p.Binary = filepath.Join(dir, binaryName(p.ImportPath))
		group.Go(func() error {
			command := exec.CommandContext(ctx, "go", "test", "-c", "-tags", tag, "-trimpath", "-o", p.Binary, p.ImportPath)
			command.Dir = root
			command.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := command.CombinedOutput(); err != nil {
				return fmt.Errorf("compiling the tests of %s: %w\n%s", p.ImportPath, err, out)
			}
			return nil
		})
	}
	return group.Wait()
}

// binaryName makes a file name of an import path without its host and module.
func binaryName(importPath string) string {
	_, path, _ := strings.Cut(importPath, "/")
	_, path, _ = strings.Cut(path, "/")
	if path == "" {
		path = "root"
	}
	return strings.ReplaceAll(path, "/", "-") + ".test"
}
