package modules

import (
	"errors"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func tree(t *testing.T, dep, builtin string) *Tree {
	t.Helper()
	tree, err := Read(fstest.MapFS{
		"modules.dep":     {Data: []byte(dep)},
		"modules.builtin": {Data: []byte(builtin)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestOrderLoadsWhatIsNeededFirst(t *testing.T) {
	tree := tree(t, `kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/a/virtio-ring.ko:
`, "kernel/drivers/virtio/virtio.ko\n")
	got, err := tree.Order("virtio", "9p", "9pnet_virtio", "virtio_ring", "9p")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"kernel/fs/netfs/netfs.ko.xz", "kernel/net/9p/9pnet.ko.xz", "kernel/fs/9p/9p.ko.xz",
		"kernel/net/9p/9pnet_virtio.ko.xz", "kernel/a/virtio-ring.ko",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestOrderNamesAMissingModule(t *testing.T) {
	_, err := tree(t, "", "").Order("veth")
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}

func TestReadRefusesAFolderWithoutLists(t *testing.T) {
	if _, err := Read(fstest.MapFS{}); err == nil {
		t.Error("no error for an empty folder")
	}
	if _, err := Read(fstest.MapFS{"modules.dep": {Data: []byte("kernel/a.ko\n")}, "modules.builtin": {}}); err == nil {
		t.Error("no error for a line without a colon")
	}
}
