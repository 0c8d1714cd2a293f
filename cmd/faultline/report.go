package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"faultline.dev/faultline/api/document"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// reportKinds are what --report can write.
var reportKinds = []string{"json", "junit"}

// report is a file that will hold the result.
type report struct {
	kind, path string
	// f is a new file beside path, to be renamed; or path itself where that is
	// no regular file: a device, a pipe.
	f       *os.File
	renamed bool
}

type reports []*report

// parseReports reads KIND=FILE.
func parseReports(list []string) (reports, error) {
	var out reports
	seen := map[string]bool{}
	for _, given := range list {
		kind, path, ok := strings.Cut(given, "=")
		if !ok || path == "" {
			return nil, fmt.Errorf("--report %q: wanted KIND=FILE, KIND one of %s", given, strings.Join(reportKinds, ", "))
		}
		switch kind {
		case "json", "junit":
		default:
			return nil, fmt.Errorf("--report %q: unknown kind %q%s", given, kind, didYouMean(kind, reportKinds, "allowed: "+strings.Join(reportKinds, ", ")))
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("--report %q: %w", given, err)
		}
		if seen[abs] {
			return nil, fmt.Errorf("--report: %s is given twice", path)
		}
		seen[abs] = true
		out = append(out, &report{kind: kind, path: path})
	}
	return out, nil
}

// open makes sure that every report can be written, before anything is
// injected.
func (r reports) open() error {
	for _, one := range r {
		if err := one.open(); err != nil {
			r.discard()
			return fmt.Errorf("opening report %s: %w", one.path, reason(err))
		}
	}
	return nil
}

func (r *report) open() (err error) {
	mode := fs.FileMode(0o666)
	st, err := os.Stat(r.path)
	switch {
	case err == nil && st.IsDir():
		return errors.New("it is a directory")
	case err == nil && !st.Mode().IsRegular():
		r.f, err = os.OpenFile(r.path, os.O_WRONLY, 0)
		return err
	case err == nil:
		mode = st.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	var random [6]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	name := filepath.Join(filepath.Dir(r.path), "."+filepath.Base(r.path)+"."+hex.EncodeToString(random[:]))
	r.renamed = true
	r.f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	return err
}

// discard removes what was opened and not written.
func (r reports) discard() {
	for _, one := range r {
		if one.f == nil {
			continue
		}
		_ = one.f.Close()
		if one.renamed {
			_ = os.Remove(one.f.Name())
		}
		one.f = nil
	}
}

// write fills the files and gives them their names. It goes on after an error.
func (r reports) write(result *v1.Result) error {
	var errs []error
	for _, one := range r {
		if err := one.write(result); err != nil {
			errs = append(errs, fmt.Errorf("writing report %s: %w", one.path, err))
		}
	}
	return errors.Join(errs...)
}

func (r *report) write(result *v1.Result) error {
	encode := document.MarshalJSON
	data, err := []byte(nil), error(nil)
	if r.kind == "junit" {
		data, err = junit(result)
	} else {
		data, err = encode(result)
	}
	if err != nil {
		return err
	}
	if _, err := r.f.Write(data); err != nil {
		return err
	}
	if !r.renamed {
		err := r.f.Close()
		r.f = nil
		return err
	}
	// What a report says must be there after a crash of the machine too.
	if err := errors.Join(r.f.Sync(), r.f.Close()); err != nil {
		return err
	}
	if err := os.Rename(r.f.Name(), r.path); err != nil {
		return err
	}
	r.f = nil
	return nil
}
