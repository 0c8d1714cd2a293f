//go:build linux && privileged

package file_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/env"
)

// done is how much fio has read or written.
type done struct {
	Done int `json:"total_ios"`
}

// What a process asks of an io_uring comes by the same hooks, in threads of its own.
func TestRingsComeByTheHooks(t *testing.T) {
	const times, size = 12, 4096
	for _, tt := range []struct {
		direction string
		operation v1.FileOperation
	}{{"read", v1.FileOperation_READ}, {"write", v1.FileOperation_WRITE}} {
		for _, workers := range []int{0, 1} {
			t.Run(fmt.Sprint(tt.direction, ", workers ", workers), func(t *testing.T) {
				eachMechanism(t, func(t *testing.T, mechanism string) {
					target := env.Cgroup(t)
					dir := newDir(t)
					if err := os.WriteFile(dir+"/data", make([]byte, times*size), 0o644); err != nil {
						t.Fatal(err)
					}
					spec := fails(mechanism, dir+"/data", tt.operation)
					spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
					spec.GetFileError().Errno = "EIO" // after another one fio would not go on
					i := inject(t, spec, target)
					out := []byte(env.StartProgram(t, target, nil, "sh", "-c", fmt.Sprintf(
						"fio --name=ring --ioengine=io_uring --thread --filename=%s/data --rw=%s --bs=%d --size=%d --iodepth=4 --force_async=%d --continue_on_error=io --output-format=json --output=%s/out >&2; cat %s/out",
						dir, tt.direction, size, times*size, workers, dir, dir)).Wait())
					// Messages come first.
					out = out[max(bytes.IndexByte(out, '{'), 0):]
					var report struct {
						Jobs []struct {
							Errors int        `json:"total_err"`
							First  unix.Errno `json:"first_error"`
							Read   done       `json:"read"`
							Write  done       `json:"write"`
						} `json:"jobs"`
					}
					if err := json.Unmarshal(out, &report); err != nil || len(report.Jobs) != 1 || report.Jobs[0].Read.Done+report.Jobs[0].Write.Done == 0 {
						t.Fatalf("%v\n%s", err, out)
					}
					got := report.Jobs[0]
					if got.Errors != times/3 || got.First != unix.EIO {
						t.Errorf("%+v of %d", got, times)
					}
					expectCounters(t, i, times, times/3)
				})
			})
		}
	}
}
