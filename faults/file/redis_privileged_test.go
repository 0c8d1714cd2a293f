//go:build linux && privileged

package file_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/env"
)

// redis is a connection to a server.
type redis struct {
	connection net.Conn
	answers    *bufio.Reader
}

// ask returns the answer to a command, or the error of the connection.
func (r *redis) ask(command string) (string, error) {
	if _, err := fmt.Fprintf(r.connection, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := r.answers.ReadString('\n')
	line = strings.TrimSpace(line)
	if err == nil && strings.HasPrefix(line, "$") && line != "$-1" {
		line, err = r.answers.ReadString('\n')
		line = strings.TrimSpace(line)
	}
	return line, err
}

// until asks until the answer begins as it should.
func (r *redis) until(t *testing.T, command, want string) {
	t.Helper()
	if err := env.Within(30*time.Second, func() error {
		answer, err := r.ask(command)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(answer, want) {
			return fmt.Errorf("%s is answered by %q, want %q", command, answer, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Redis refuses to write what it can't log, serves readers, and goes on by itself. The
// same document stands in docs/faults/fileError.md.
func TestRedisWithAFullDisk(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		dir := newDir(t)
		env.StartProgram(t, target, nil, "redis-server", "--dir", dir, "--port", "0", "--unixsocket", dir+"/socket",
			"--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
		var server redis
		if err := env.Within(30*time.Second, func() (err error) {
			server.connection, err = net.Dial("unix", dir+"/socket")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.connection.Close() }()
		server.answers = bufio.NewReader(server.connection)
		server.until(t, "SET a 1", "+OK")

		spec := fails(mechanism, dir+"/**", v1.FileOperation_WRITE)
		spec.GetFileError().Errno = "ENOSPC"
		i := inject(t, spec, target)
		server.until(t, "SET b 1", "-MISCONF")
		server.until(t, "GET a", "1")
		i.End()
		// Redis tries by itself: until then one may have been chosen and not hit yet.
		if c := i.Count(); c.Injected == 0 || c.Injected != c.Matched || c.Missed != 0 {
			t.Errorf("counters %+v", c)
		}
		server.until(t, "SET c 1", "+OK")
		server.until(t, "GET a", "1")
	})
}
