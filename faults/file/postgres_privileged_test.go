//go:build linux && privileged

package file_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

// postgres is a server of its own, as a user that is not root, which it refuses.
type postgres struct{ bin, data string }

// as is the command of a program of the server.
func (p postgres) as(program string, arguments ...string) []string {
	return append([]string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", filepath.Join(p.bin, program)}, arguments...)
}

func (p postgres) run(t *testing.T, program string, arguments ...string) (string, error) {
	t.Helper()
	words := p.as(program, arguments...)
	out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (p postgres) query(t *testing.T, text string) (string, error) {
	t.Helper()
	return p.run(t, "psql", "-h", p.data, "-d", "postgres", "-X", "-A", "-t", "-c", text)
}

func (p postgres) log(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(p.data + "/log/server.log")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// newPostgres starts one in a cgroup.
func newPostgres(t *testing.T, cgroup fault.Cgroup) postgres {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatalf("no PostgreSQL is installed: %v", err)
	}
	p := postgres{found[len(found)-1], newDir(t) + "/data"}
	for dir := filepath.Dir(p.data); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(p.data, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(p.data, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if out, err := p.run(t, "initdb", "--pgdata", p.data, "--no-sync", "--auth=trust", "--no-locale", "--encoding=UTF8"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	words := p.as("postgres", "-D", p.data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+p.data,
		"-c", "logging_collector=on", "-c", "log_directory=log", "-c", "log_filename=server.log", "-c", "shared_buffers=16MB",
		"-c", "wal_sync_method=fdatasync")
	env.StartProgram(t, cgroup, nil, words[0], words[1:]...)
	p.until(t, "SELECT 1", "1")
	return p
}

// until asks until the answer is as it should be.
func (p postgres) until(t *testing.T, text, want string) {
	t.Helper()
	if err := env.Within(2*time.Minute, func() error {
		if got, err := p.query(t, text); err != nil || got != want {
			return fmt.Errorf("%s is answered by %q (%w), want %q", text, got, err, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// PostgreSQL panics when its log can't be synced, recovers from what was, and goes on; it
// has not promised what it lost. The same document stands in docs/faults/fileError.md.
func TestPostgresThatCanNotSync(t *testing.T) {
	needSync(t)
	target := env.Cgroup(t)
	p := newPostgres(t, target)
	if out, err := p.query(t, "CREATE TABLE t (i int); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	spec := fails("", p.data+"/pg_wal/**", v1.FileOperation_FSYNC)
	spec.GetFileError().Errno = "EIO"
	spec.Rate = &v1.Rate{First: proto.Uint64(1)}
	i := inject(t, spec, target)
	// Mostly the first one is not promised; the server may also sync by itself before.
	promised := 1
	for i.Count().Injected == 0 {
		if _, err := p.query(t, fmt.Sprintf("INSERT INTO t VALUES (%d)", promised+1)); err == nil {
			promised++
		}
	}
	p.until(t, fmt.Sprintf("SELECT count(*) FROM t WHERE i <= %d", promised), fmt.Sprint(promised))
	p.until(t, "INSERT INTO t VALUES (1000) RETURNING i", "1000\nINSERT 0 1")
	i.End()
	if c := i.Count(); c.Injected != 1 || c.Missed != 0 {
		t.Errorf("counters %+v", c)
	}
	text := p.log(t)
	for _, want := range []string{"PANIC:  could not fdatasync file", "Input/output error", "automatic recovery in progress"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not tell of %q:\n%s", want, text)
		}
	}
}
