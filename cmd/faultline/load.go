package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
)

// load reads an experiment from a file, or from stdin for "-", checks it and
// puts its defaults in. Its errors are the caller's fault: exit code 2.
func (a *app) load(name string) (*document.Document, error) {
	data, shown, err := a.read(name)
	if err != nil {
		return nil, usage(err)
	}
	doc, err := document.Decode(shown, data)
	if err != nil {
		return nil, err
	}
	if err := check(doc); err != nil {
		return nil, err
	}
	faults.Defaults(doc.Experiment)
	folder := ""
	if name != "-" {
		folder = filepath.Dir(name)
	}
	return doc, rebase(doc.Experiment, folder)
}

// rebase makes the paths of files that a document names absolute: they begin at
// its folder. That of one from stdin is the working directory.
func rebase(experiment *v1.Experiment, folder string) error {
	for _, step := range experiment.GetSpec().GetSteps() {
		for _, f := range step.GetFaults() {
			latency := f.GetNetworkLatency()
			if latency.GetTable() == "" || filepath.IsAbs(latency.GetTable()) {
				continue
			}
			path, err := filepath.Abs(filepath.Join(folder, latency.GetTable()))
			if err != nil {
				return fmt.Errorf("looking for the folder of table %s: %w", latency.GetTable(), err)
			}
			latency.Table = path
		}
	}
	return nil
}

// loadToRun is load for who wants to run it: this version must have every
// fault. The engine would say so too, but not where.
func (a *app) loadToRun(name string) (*v1.Experiment, error) {
	doc, err := a.load(name)
	if err != nil {
		return nil, err
	}
	var errs document.Errors
	for i, step := range doc.Experiment.GetSpec().GetSteps() {
		for j, f := range step.GetFaults() {
			kind, err := faults.KindOf(f)
			if err != nil || !kind.Built() {
				path := fmt.Sprintf("spec.steps[%d].faults[%d].%s", i, j, kind.Name)
				errs = append(errs, doc.Error(path, kind.Name+" is not built yet; faultline faults says which faults this version has"))
			}
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return doc.Experiment, nil
}

// read returns the text and the name that errors call it by.
func (a *app) read(name string) (data []byte, shown string, err error) {
	in := a.stdin
	if name == "-" {
		name = "stdin"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, "", fmt.Errorf("reading %s: %w", name, reason(err))
		}
		defer f.Close()
		in = f
	}
	// One byte more than is allowed, for Decode to see that there is more.
	data, err = io.ReadAll(io.LimitReader(in, document.MaxSize+1))
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", name, reason(err))
	}
	return data, name, nil
}

// reason takes the call and the path, which the caller has said, off an error
// of package os.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// check finds what the schema can't say, each problem at its place.
func check(doc *document.Document) error {
	var errs document.Errors
	for _, p := range faults.Validate(doc.Experiment) {
		errs = append(errs, doc.Error(p.Path, p.Message))
	}
	if len(errs) == 0 {
		return nil
	}
	slices.SortStableFunc(errs, func(a, b *document.Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return errs
}

// isPlaced tells whether an error says itself in which file and line it is.
func isPlaced(err error) bool {
	var placed document.Errors
	return errors.As(err, &placed)
}
