package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/agent/journal"
	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/powercut/internal/event"
)

// runsDir is where a state directory has its runs.
const runsDir = "runs"

// find looks what the cut left, without changing it.
func (g *guest) find() (*event.Found, error) {
	found := &event.Found{}
	for _, state := range []string{g.runs, g.files} {
		runs, err := journal.List(state)
		if err != nil {
			return nil, err
		}
		for _, run := range runs {
			found.Runs = append(found.Runs, describe(run))
		}
		entries, err := os.ReadDir(filepath.Join(state, runsDir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				found.Unfinished = append(found.Unfinished, filepath.Join(state, runsDir, e.Name()))
			}
		}
	}
	var err error
	found.Files, found.Settings, err = g.leftFiles()
	return found, err
}

func describe(run journal.Run) event.Run {
	r := event.Run{Dir: run.Dir, Torn: run.Torn}
	for _, open := range run.Open {
		r.Open = append(r.Open, open.GetKind()+": "+open.GetDescription())
	}
	if run.Err != nil {
		r.Error = run.Err.Error()
	}
	var err error
	if r.Journal, err = os.ReadFile(filepath.Join(run.Dir, "journal")); err != nil {
		r.Journal = []byte(err.Error())
	}
	return r
}

// revert undoes what is left, and returns how many records it closed.
func (g *guest) revert() (undone int, err error) {
	report := &v1.RevertReport{}
	if err := g.run(report, "revert", "--all"); err != nil {
		return 0, err
	}
	changes, err := journal.Revert(context.Background(), g.files, decodeChange)
	if err != nil {
		return 0, fmt.Errorf("undoing the changes to files: %w", err)
	}
	if failed := append(report.GetFailed(), changes.GetFailed()...); len(failed) > 0 {
		var lines []string
		for _, f := range failed {
			lines = append(lines, f.GetRunId()+": "+f.GetDescription()+": "+f.GetError())
		}
		return 0, fmt.Errorf("reverting left these:\n%s", strings.Join(lines, "\n"))
	}
	return len(report.GetUndone()) + len(changes.GetUndone()), nil
}

// check looks that nothing is left, and returns all that is.
func (g *guest) check() error {
	var errs []error
	found, err := g.find()
	if err != nil {
		return err
	}
	for _, run := range found.Runs {
		errs = append(errs, fmt.Errorf("%s is still there: %d records open", run.Dir, len(run.Open)))
	}
	for _, dir := range found.Unfinished {
		errs = append(errs, fmt.Errorf("%s is still there", dir))
	}
	for _, file := range found.Files {
		errs = append(errs, fmt.Errorf("file %s was made behind a record and is still there", file))
	}
	for _, setting := range found.Settings {
		errs = append(errs, fmt.Errorf("setting changed behind a record has not its old value: %s", setting))
	}
	status := &v1.NodeStatus{}
	if err := g.run(status, "status"); err != nil {
		errs = append(errs, err)
	} else if len(status.GetRuns())+len(status.GetRemnants()) > 0 {
		errs = append(errs, fmt.Errorf("status knows of something: %v", status))
	}
	return errors.Join(errs...)
}

// run runs a command of faultline to its end and reads its answer. The error matches
// *exec.ExitError when the end was not a good one.
func (g *guest) run(answer proto.Message, args ...string) error {
	args = append(args, "--state-dir", g.runs, "--output", "json")
	cmd := exec.Command(g.faultline, args...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	// An answer comes with some of the bad ends too.
	ended := cmd.Run()
	if ended != nil {
		ended = fmt.Errorf("faultline %s: %w\n%s%s", strings.Join(args, " "), ended, out.Bytes(), complaints.Bytes())
	}
	if err := protojson.Unmarshal(out.Bytes(), answer); err != nil && ended == nil {
		return fmt.Errorf("reading what faultline %s says: %w\n%s", args[0], err, out.Bytes())
	}
	return ended
}
