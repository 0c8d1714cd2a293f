//go:build linux && privileged

package network_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/test/env"
)

// order is what a process of its own is to inject.
type order struct {
	Kind       string
	Spec       []byte
	Target     fault.Cgroup
	CgroupRoot string
	// Records is the file of the records.
	Records string
	PinDir  string
	Lease   time.Duration
}

func kindOf(name string) fault.Kind {
	for _, kind := range network.Kinds() {
		if kind.Name == name {
			return kind
		}
	}
	panic("no kind " + name)
}

// inject is a workload: it injects what the file args[0] says, and then does
// what it is told.
func inject(in io.Reader, out *json.Encoder, args []string) error {
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var o order
	var spec v1.Fault
	if err := errors.Join(json.Unmarshal(text, &o), proto.Unmarshal(o.Spec, &spec)); err != nil {
		return err
	}
	ctx := context.Background()
	plan, err := kindOf(o.Kind).Plan(ctx, fault.Request{
		Spec:     &spec,
		Cgroups:  []fault.Cgroup{o.Target},
		Seed:     seed,
		Prober:   kernel.NewProber(o.CgroupRoot, nil),
		Resolver: names{},
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err := out.Encode("planned"); err != nil {
		return err
	}
	injection, err := plan.Inject(ctx, &recordFile{path: o.Records, pinDir: o.PinDir})
	if err != nil {
		return err
	}
	if err := injection.Start(env.Lease(o.Lease)); err != nil {
		return err
	}
	if err := out.Encode("started"); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var err error
		switch lines.Text() {
		case "refresh":
			err = injection.Refresh(ctx)
		case "renew":
			err = injection.Renew(env.Lease(o.Lease))
		case "revert":
			err = injection.Revert(ctx)
		}
		if err := errors.Join(err, out.Encode("done")); err != nil {
			return err
		}
	}
	return nil
}

// recordFile is a journal without fsync: it outlives the process, which is all
// that these tests take away.
type recordFile struct {
	path, pinDir string
	mu           sync.Mutex
	watches      []fault.Watch
	commons      fault.Commons
}

type recordLine struct {
	Kind string
	Data json.RawMessage
	// Done closes the record that stands in line Seq.
	Done bool
	Seq  int
}

func (r *recordFile) append(line recordLine) (seq int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	encoded, err := json.Marshal(line)
	if err != nil {
		return 0, err
	}
	before, err := os.ReadFile(r.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	file, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = file.Write(append(encoded, '\n'))
	return bytes.Count(before, []byte("\n")), errors.Join(err, file.Close())
}

func (r *recordFile) Record(undo fault.Undo) (fault.Undone, error) {
	data, err := json.Marshal(undo)
	if err != nil {
		return nil, err
	}
	seq, err := r.append(recordLine{Kind: undo.Kind(), Data: data})
	return recorded{r, undo, seq}, err
}

func (r *recordFile) Watch(watch fault.Watch) error {
	r.watches = append(r.watches, watch)
	_, err := watch.State()
	return err
}

func (r *recordFile) PinDir() string { return r.pinDir }

func (r *recordFile) Commons() *fault.Commons { return &r.commons }

type recorded struct {
	file *recordFile
	undo fault.Undo
	seq  int
}

func (r recorded) Undo(ctx context.Context) error {
	if err := r.undo.Undo(ctx); err != nil {
		return err
	}
	_, err := r.file.append(recordLine{Done: true, Seq: r.seq})
	return err
}

// open are the records that are not closed, oldest first.
func (r *recordFile) open(t *testing.T) (list []fault.Open) {
	t.Helper()
	text, err := os.ReadFile(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	bySeq := map[int]fault.Open{}
	var order []int
	for seq, text := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var line recordLine
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if line.Done {
			delete(bySeq, line.Seq)
			continue
		}
		undo, err := faults.DecodeUndo(line.Kind, line.Data)
		if err != nil {
			t.Fatal(err)
		}
		bySeq[seq] = fault.Open{Undo: undo, Undone: recorded{r, undo, seq}}
		order = append(order, seq)
	}
	for _, seq := range order {
		if o, ok := bySeq[seq]; ok {
			list = append(list, o)
		}
	}
	return list
}

// undoAll runs what is open, the newest first, as a journal does.
func (r *recordFile) undoAll(t *testing.T) {
	t.Helper()
	for _, o := range slices.Backward(r.open(t)) {
		if err := o.Undone.Undo(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// pinned is a fault in a process of its own.
type pinned struct {
	*fixture
	kind    fault.Kind
	spec    *v1.Fault
	records *recordFile
	process *env.Process
}

// newPinned makes the surroundings. pinDir is the test's own.
func newPinned(t *testing.T, kind fault.Kind, spec *v1.Fault, mechanism string) *pinned {
	t.Helper()
	needBPFFS(t)
	f := newFixture(t, kind, mechanism)
	spec.Mechanism = mechanism
	spec.Persistence = v1.Fault_PINNED
	dir := filepath.Join(t.TempDir(), "records")
	run := filepath.Join(pin.Root, "test-"+filepath.Base(f.target.Path))
	return &pinned{fixture: f, kind: kind, spec: spec, records: &recordFile{path: dir, pinDir: filepath.Join(run, "1")}}
}

func needBPFFS(t *testing.T) {
	t.Helper()
	prober := env.Prober(t)
	if answer := prober.Probe(t.Context(), kernel.BPFFS); !answer.OK() {
		t.Fatalf("%s: %s", kernel.BPFFS, answer.Reason)
	}
}

// launch starts the process and returns when it has planned.
func (p *pinned) launch(lease time.Duration) {
	p.t.Helper()
	encoded, err := proto.Marshal(p.spec)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := json.Marshal(order{
		Kind: p.kind.Name, Spec: encoded, Target: p.target, CgroupRoot: env.CgroupRoot(p.t),
		Records: p.records.path, PinDir: p.records.pinDir, Lease: lease,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	path := filepath.Join(p.t.TempDir(), "order")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.process = env.Start(p.t, p.neighbour, nil, "inject", path)
	p.wait("planned")
}

// begin starts the process and returns when the fault is on.
func (p *pinned) begin(lease time.Duration) {
	p.t.Helper()
	p.launch(lease)
	p.wait("started")
}

func (p *pinned) wait(want string) {
	p.t.Helper()
	var got string
	if p.process.Read(&got); got != want {
		p.t.Fatalf("the process said %q, want %q", got, want)
	}
}

func (p *pinned) tell(what string) {
	p.t.Helper()
	p.process.Tell(what)
	p.wait("done")
}

// adopt takes the fault over in this process.
func (p *pinned) adopt(spec *v1.Fault) (fault.Injection, error) {
	p.t.Helper()
	plan, err := p.plan(p.kind, spec)
	if err != nil {
		p.t.Fatal(err)
	}
	return plan.Adopt(p.t.Context(), p.records, p.records.open(p.t))
}

// mustAdopt takes the fault over; it is taken back with the test at the latest.
func (p *pinned) mustAdopt() fault.Injection {
	p.t.Helper()
	injection, err := p.adopt(p.spec)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := injection.Revert(context.Background()); err != nil {
			p.t.Error(err)
		}
	})
	return injection
}

// nothingLeft looks at everything that was watched, and for pins.
func (p *pinned) nothingLeft() {
	p.t.Helper()
	for _, watch := range p.records.watches {
		lines, err := watch.State()
		if err != nil && !errors.Is(err, fault.ErrGone) {
			p.t.Error(err)
		}
		for _, line := range lines {
			if strings.Contains(line, "fl_") || strings.Contains(line, "faultline") || strings.Contains(line, "clsact") {
				p.t.Errorf("%s: left behind: %s", watch.Key(), line)
			}
		}
	}
	for _, dir := range []string{p.records.pinDir, p.records.pinDir + "-new", filepath.Dir(p.records.pinDir)} {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			p.t.Errorf("left behind: %s (%v)", dir, err)
		}
	}
	if open := p.records.open(p.t); len(open) > 0 {
		p.t.Errorf("still to be undone: %v", open)
	}
	if err := env.Within(10*time.Second, p.nothingAttached); err != nil {
		p.t.Error(err)
	}
	filters := p.network.A.Run("tc", "qdisc", "show", "dev", env.Veth) + p.network.A.Run("tc", "filter", "show", "dev", env.Veth, "egress")
	if strings.Contains(filters, "clsact") || strings.Contains(filters, "faultline") {
		p.t.Errorf("left behind on the interface:\n%s", filters)
	}
}

// nothingAttached looks for programs at the target, which has none of its own.
// Those of links without a pin end a little after their process.
func (p *pinned) nothingAttached() (err error) {
	dir, err := os.Open(p.target.Path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	look := func(target int, attach ebpf.AttachType) {
		found, queryErr := link.QueryPrograms(link.QueryOptions{Target: target, Attach: attach})
		if queryErr != nil {
			err = errors.Join(err, queryErr)
		} else if n := len(found.Programs); n > 0 {
			err = errors.Join(err, fmt.Errorf("%v: %d programs are attached", attach, n))
		}
	}
	look(int(dir.Fd()), ebpf.AttachCGroupInetEgress)
	look(int(dir.Fd()), ebpf.AttachCGroupInetIngress)
	if p.spec.GetMechanism() == "tcx" {
		p.network.A.Do(func() error {
			veth, err := net.InterfaceByName(env.Veth)
			if err == nil {
				look(veth.Index, ebpf.AttachTCXEgress)
			}
			return err
		})
	}
	return err
}

// pins lists the names in the directory; none when it is not there.
func (p *pinned) pins(dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// exchanged counts on over several exchanges.
func exchanged(round, count int, lost []int) []int {
	shifted := slices.Clone(lost)
	for i := range shifted {
		shifted[i] += round * count
	}
	return shifted
}
