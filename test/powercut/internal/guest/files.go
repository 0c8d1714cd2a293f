package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"faultline.dev/faultline/agent/journal"
	"faultline.dev/faultline/faults/fault"
)

// workers is how many change files, and how many run experiments, at one time.
const workers = 3

// removeFile undoes the making of a file.
type removeFile struct {
	Path string `json:"path"`
}

func (removeFile) Kind() string       { return "powercut-file" }
func (u removeFile) Describe() string { return "remove " + u.Path }

// Survives tells that a reboot does not undo it.
func (removeFile) Survives() bool { return true }

// Undo removes the file, and is on the disk before it returns: a record that is
// closed promises that.
func (u removeFile) Undo(context.Context) error {
	for _, path := range []string{u.Path, u.Path + temporary} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(filepath.Dir(u.Path))
}

// restoreSetting undoes a change of a file's content.
type restoreSetting struct {
	Path string `json:"path"`
	Old  []byte `json:"old"`
}

func (restoreSetting) Kind() string       { return "powercut-setting" }
func (u restoreSetting) Describe() string { return "put the old content back into " + u.Path }

// Survives tells that a reboot does not undo it.
func (restoreSetting) Survives() bool { return true }

// Undo puts the content back, on the disk.
func (u restoreSetting) Undo(context.Context) error { return durably(u.Path, u.Old) }

// decodeChange is the journal.Decode of the changes to files.
func decodeChange(kind string, data []byte) (fault.Undo, error) {
	switch kind {
	case removeFile{}.Kind():
		var u removeFile
		err := json.Unmarshal(data, &u)
		return u, err
	case restoreSetting{}.Kind():
		var u restoreSetting
		err := json.Unmarshal(data, &u)
		return u, err
	}
	return nil, fmt.Errorf("kind %q is unknown", kind)
}

func (g *guest) setting(n int) string { return filepath.Join(g.changed, fmt.Sprintf("setting-%d", n)) }

// original is the content of a setting that nobody has changed.
func original(n int) []byte { return fmt.Appendf(nil, "setting %d has its first value\n", n) }

// leftFiles are the files of changes that are not undone, and leftSettings the
// settings.
func (g *guest) leftFiles() (files, settings []string, err error) {
	entries, err := os.ReadDir(g.changed)
	if err != nil {
		return nil, nil, err
	}
	names := map[string]bool{}
	for n := range workers {
		names[filepath.Base(g.setting(n))] = true
	}
	for _, e := range entries {
		if !names[e.Name()] {
			files = append(files, e.Name())
		}
	}
	for n := range workers {
		content, err := os.ReadFile(g.setting(n))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if string(content) != string(original(n)) {
			settings = append(settings, fmt.Sprintf("%s: %.80q", filepath.Base(g.setting(n)), content))
		}
	}
	return files, settings, nil
}

// changeFiles makes files and changes a setting behind journal records, and undoes
// that, over and over.
func (g *guest) changeFiles(worker int, random *rand.Rand, middle func()) error {
	for n := 0; ; n++ {
		if err := g.changeOnce(worker, n, random, middle); err != nil {
			return fmt.Errorf("changing files: %w", err)
		}
	}
}

func (g *guest) changeOnce(worker, n int, random *rand.Rand, middle func()) error {
	id := fmt.Sprintf("files-%d-%d-%d", g.boot, worker, n)
	j, err := journal.Create(g.files, id, "changes")
	if err != nil {
		return err
	}
	var undone []fault.Undone
	for k := range 1 + random.IntN(4) {
		u, err := g.change(j.For("change"), worker, filepath.Join(g.changed, fmt.Sprintf("file-%s-%d", id[len("files-"):], k)), random)
		if err != nil {
			return err
		}
		undone = append(undone, u)
	}
	middle()
	<-time.After(time.Duration(random.Int64N(int64(150 * time.Millisecond))))
	for k := len(undone) - 1; k >= 0; k-- {
		if err := undone[k].Undo(context.Background()); err != nil {
			return err
		}
	}
	return errors.Join(j.Err(), j.Close())
}

// change makes a file or changes the worker's setting, and brings it to the disk or
// not: whatever the disk has after a cut must be undone.
func (g *guest) change(rec journal.FaultJournal, worker int, path string, random *rand.Rand) (fault.Undone, error) {
	content := []byte(strings.Repeat(path+" is not undone\n", 1+random.IntN(200)))
	var undo fault.Undo = removeFile{path}
	if random.IntN(3) == 0 {
		path = g.setting(worker)
		// Not what it is now: this may be the second change of one run.
		undo = restoreSetting{path, original(worker)}
	}
	u, err := rec.Record(undo)
	if err != nil {
		return nil, err
	}
	if random.IntN(2) == 0 {
		return u, durably(path, content)
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	if random.IntN(2) == 0 {
		err = errors.Join(err, f.Sync())
	}
	return u, errors.Join(err, f.Close())
}
