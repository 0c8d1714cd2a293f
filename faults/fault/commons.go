package fault

import (
	"errors"
	"io"
	"sync"
)

// Commons is what the faults of one run have in common: the first that needs
// something makes it, and it is closed with the run. The zero value is ready,
// and it is safe for concurrent use.
type Commons struct {
	mu   sync.Mutex
	made map[string]io.Closer
}

// Of returns what is kept under the name of a family, and makes it when nothing
// is yet.
func (c *Commons) Of(family string, make func() (io.Closer, error)) (io.Closer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if thing := c.made[family]; thing != nil {
		return thing, nil
	}
	thing, err := make()
	if err != nil {
		return nil, err
	}
	if c.made == nil {
		c.made = map[string]io.Closer{}
	}
	c.made[family] = thing
	return thing, nil
}

// Close closes all of it.
func (c *Commons) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for family, thing := range c.made {
		errs = append(errs, thing.Close())
		delete(c.made, family)
	}
	return errors.Join(errs...)
}
