package guest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"faultline.dev/faultline/agent/journal"
)

// disk makes a guest whose disk is a folder, with its settings.
func disk(t *testing.T) *guest {
	t.Helper()
	dir := t.TempDir()
	g := &guest{files: filepath.Join(dir, "files"), runs: filepath.Join(dir, "runs"), changed: filepath.Join(dir, "changed")}
	if err := os.Mkdir(g.changed, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range workers {
		if err := durably(g.setting(n), original(n)); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (g *guest) nothingLeft(t *testing.T) {
	t.Helper()
	files, settings, err := g.leftFiles()
	if err != nil || len(files)+len(settings) > 0 {
		t.Errorf("left are files %q and settings %q, %v", files, settings, err)
	}
	runs, err := journal.List(g.files)
	if err != nil || len(runs) > 0 {
		t.Errorf("left are runs %v, %v", runs, err)
	}
}

func TestChangesUndoThemselves(t *testing.T) {
	g := disk(t)
	random := rand.New(rand.NewPCG(1, 1))
	for n := range 20 {
		if err := g.changeOnce(n%workers, n, random, func() {}); err != nil {
			t.Fatal(err)
		}
		g.nothingLeft(t)
	}
}

func TestChangesAreUndoneFromTheJournal(t *testing.T) {
	g := disk(t)
	random := rand.New(rand.NewPCG(2, 1))
	const changes = 10
	for worker := range workers {
		j, err := journal.Create(g.files, fmt.Sprintf("files-%d", worker), "changes")
		if err != nil {
			t.Fatal(err)
		}
		for k := range changes {
			path := filepath.Join(g.changed, fmt.Sprintf("file-%d-%d", worker, k))
			if _, err := g.change(j.For("change"), worker, path, random); err != nil {
				t.Fatal(err)
			}
		}
		// What is open stays so.
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// As a cut leaves the second setting that was being written in place, and a
	// file that was not renamed yet.
	if err := os.Truncate(g.setting(1), 0); err != nil {
		t.Fatal(err)
	}
	files, settings, err := g.leftFiles()
	if err != nil || len(settings) != workers || len(files) == 0 {
		t.Fatalf("files %q and settings %q, %v: the test is void", files, settings, err)
	}
	first := filepath.Join(g.changed, files[0])
	if err := os.Rename(first, first+temporary); err != nil {
		t.Fatal(err)
	}
	report, err := journal.Revert(context.Background(), g.files, decodeChange)
	if err != nil || len(report.GetFailed()) > 0 || len(report.GetUndone()) != workers*changes {
		t.Errorf("undone %d, failed %v, %v", len(report.GetUndone()), report.GetFailed(), err)
	}
	g.nothingLeft(t)
}

func TestDecodeKnowsItsOwnKindsOnly(t *testing.T) {
	if _, err := decodeChange("tc-filter", []byte("{}")); err == nil {
		t.Error("a kind of somebody else is decoded")
	}
	if _, err := decodeChange(removeFile{}.Kind(), []byte("{")); err == nil {
		t.Error("half a record is decoded")
	}
}

func TestCheckSeesWhatIsLeft(t *testing.T) {
	g := disk(t)
	for _, name := range []string{"file-1-0-0-0", "file-1-0-0-1" + temporary} {
		if err := os.WriteFile(filepath.Join(g.changed, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(g.setting(2)); err != nil {
		t.Fatal(err)
	}
	files, settings, err := g.leftFiles()
	if err != nil || len(files) != 2 || len(settings) != 1 {
		t.Errorf("files %q, settings %q, %v", files, settings, err)
	}
}

func TestExperimentsAreOnesThatExist(t *testing.T) {
	some, err := built(experiments)
	if err != nil || len(some) == 0 || some[0].kind != "networkLoss" {
		t.Errorf("got %v, %v", some, err)
	}
}
