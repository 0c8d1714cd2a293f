package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

const statusName = "status.json"

// WriteStatus replaces what other processes see of the run.
func (j *Journal) WriteStatus(s *v1.RunStatus) error {
	b, err := protojson.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding the status: %w", err)
	}
	return j.WriteFile(statusName, b)
}

// WriteFile replaces a file in the run's directory, for other processes to
// read ([Run.ReadFile]): they see it whole, the old one or the new. It is not
// brought to stable storage; nothing may depend on it after a crash of the
// machine.
func (j *Journal) WriteFile(name string, content []byte) error {
	j.files.Lock()
	defer j.files.Unlock()
	tmp := filepath.Join(j.Dir(), name+".tmp")
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(tmp, filepath.Join(j.Dir(), name)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// ReadFile reads what the run has written last by WriteFile. The error matches
// [os.ErrNotExist] when it has written none.
func (r Run) ReadFile(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(r.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("reading %s of run %s: %w", name, r.ID, err)
	}
	return b, nil
}

func (r Run) readStatus() (*v1.RunStatus, error) {
	b, err := r.ReadFile(statusName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &v1.RunStatus{}
	// A newer version may have written fields that this one does not know.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("reading the status: %w", err)
	}
	return s, nil
}
