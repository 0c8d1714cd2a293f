// Package guest is what runs inside the machine whose power is cut: it undoes and
// checks what the last cut left, and then does what the next cut interrupts.
package guest

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/test/powercut/internal/event"
)

const (
	device = "/dev/vdb"
	// mountPoint is where the disk is while the guest runs.
	mountPoint = "/mnt/disk"
)

// guest is one boot.
type guest struct {
	// faultline is the program.
	faultline string
	boot      int
	// experiments are what this version can inject.
	experiments []experiment
	random      *rand.Rand
	// runs is the state directory of faultline, files that of the changes to
	// files.
	runs, files string
	// changed holds the files that the changes make and the settings.
	changed string

	mu  sync.Mutex
	out *json.Encoder
}

// Main runs the guest until its power is cut, or until something fails. args are its
// command line.
func Main(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("powercut guest", flag.ContinueOnError)
	faultline := flags.String("faultline", "", "the program")
	boot := flags.Int("boot", 0, "number of this boot")
	seed := flags.Uint64("seed", 0, "seed of the random choices")
	proof := flags.String("proof", "", "write or read the blocks that prove what the disk loses")
	end := flags.Bool("end", false, "end cleanly after the check")
	if err := flags.Parse(args); err != nil {
		return err
	}
	g := &guest{
		faultline: *faultline,
		boot:      *boot,
		random:    rand.New(rand.NewPCG(*seed, uint64(*boot))),
		runs:      filepath.Join(mountPoint, "faultline"),
		files:     filepath.Join(mountPoint, "files"),
		changed:   filepath.Join(mountPoint, "changed"),
		out:       json.NewEncoder(out),
	}
	var err error
	switch *proof {
	case "write":
		err = g.writeProof()
	case "read":
		err = g.readProof()
	default:
		err = g.live(*end)
	}
	if err != nil {
		g.tell(event.Event{Kind: event.Failed, Text: err.Error()})
	}
	return err
}

// tell is the only one who writes to the output.
func (g *guest) tell(e event.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// Whoever reads it has gone when this fails.
	_ = g.out.Encode(e)
}

// live checks what the last cut left, and then, unless it is the end, works until
// the power is cut. It returns an error, or at the end.
func (g *guest) live(end bool) error {
	if err := g.mount(); err != nil {
		return err
	}
	found, err := g.find()
	if err != nil {
		return err
	}
	if err := g.surroundings(); err != nil {
		return err
	}
	g.tell(event.Event{Kind: event.Reverting, Found: found})
	undone, err := g.revert()
	if err != nil {
		return err
	}
	if err := g.check(); err != nil {
		return err
	}
	if err := g.release(); err != nil {
		return err
	}
	if err := g.runOnce(0, g.random, true); err != nil {
		return fmt.Errorf("running an experiment after the cut: %w", err)
	}
	g.tell(event.Event{Kind: event.Clean, Undone: undone})
	if end {
		if err := unix.Unmount(mountPoint, 0); err != nil {
			return fmt.Errorf("unmounting the disk: %w", err)
		}
		return nil
	}
	return g.work()
}

// mount mounts the disk, whose journal is replayed then. A file system that finds
// itself damaged turns read-only, and so fails the next step.
func (g *guest) mount() error {
	if err := os.MkdirAll(mountPoint, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, mountPoint, "ext4", 0, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mounting the disk: %w", err)
	}
	if _, err := os.Stat(g.settled()); err == nil {
		return nil
	}
	if err := os.MkdirAll(g.changed, 0o755); err != nil {
		return err
	}
	for n := range workers {
		if err := durably(g.setting(n), original(n)); err != nil {
			return err
		}
	}
	return durably(g.settled(), []byte("The settings have their first values.\n"))
}

// settled is there when the settings are.
func (g *guest) settled() string { return filepath.Join(mountPoint, "settled") }

// work loads the machine. It returns the first error of those who work.
func (g *guest) work() error {
	failed := make(chan error)
	var middle sync.WaitGroup
	for n := range workers {
		// Each has random choices of its own: they share no order.
		random := rand.New(rand.NewPCG(g.random.Uint64(), uint64(n)))
		for _, loop := range []func(int, *rand.Rand, func()) error{g.changeFiles, g.runExperiments} {
			middle.Add(1)
			go func() { failed <- loop(n, random, sync.OnceFunc(middle.Done)) }()
			random = rand.New(rand.NewPCG(g.random.Uint64(), uint64(n)))
		}
	}
	go func() {
		middle.Wait()
		g.tell(event.Event{Kind: event.Loaded})
	}()
	return <-failed
}

// temporary ends the name of a file that durably has not finished.
const temporary = ".tmp"

// durably writes a file so that it is on the disk when this returns, all of it or
// none.
func durably(path string, content []byte) error {
	tmp := path + temporary
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
