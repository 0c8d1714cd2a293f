package kernel_test

import (
	"errors"
	"strings"
	"testing"

	"faultline.dev/faultline/faults/kernel"
)

func TestFindCgroup2(t *testing.T) {
	tests := map[string]struct {
		mountinfo string
		want      string
		err       error
	}{
		"pure, as systemd mounts it": {
			mountinfo: `22 27 0:21 / /proc rw,relatime shared:12 - proc proc rw
23 27 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`,
			want: "/sys/fs/cgroup",
		},
		"hybrid": {
			mountinfo: `23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`,
			want: "/sys/fs/cgroup/unified",
		},
		"only version 1": {
			mountinfo: `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
32 27 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
`,
			err: kernel.ErrNoCgroup2,
		},
		"nothing mounted": {err: kernel.ErrNoCgroup2},
		"a place of its own, with a space": {
			mountinfo: `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:38 / /mnt/my\040cgroups rw,relatime master:3 propagate_from:2 - cgroup2 none rw
`,
			want: "/mnt/my cgroups",
		},
		"a part bound elsewhere does not win": {
			mountinfo: `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:38 /system.slice /cg rw,relatime - cgroup2 none rw
41 27 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw
`,
			want: "/sys/fs/cgroup/unified",
		},
		"a container's part is better than nothing": {
			mountinfo: `27 1 254:0 / / rw,relatime - overlay overlay rw
40 27 0:38 /../.. /sys/fs/cgroup ro,relatime - cgroup2 cgroup rw
`,
			want: "/sys/fs/cgroup",
		},
		"covered by a later mount on the same place": {
			mountinfo: `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw
41 40 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw
42 41 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup rw
`,
			want: "/sys/fs/cgroup/unified",
		},
		"covered by a mount above it": {
			mountinfo: `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
40 23 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw
41 23 0:28 / /sys/fs rw,relatime - tmpfs tmpfs rw
`,
			err: kernel.ErrNoCgroup2,
		},
		"its parent covered": {
			mountinfo: `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
40 23 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw
41 23 0:28 / /sys rw,relatime - tmpfs tmpfs rw
`,
			err: kernel.ErrNoCgroup2,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := kernel.FindCgroup2(strings.NewReader(tt.mountinfo))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v, want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFindCgroup2RejectsWhatIsNotMountinfo(t *testing.T) {
	got, err := kernel.FindCgroup2(strings.NewReader("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"))
	if err == nil || errors.Is(err, kernel.ErrNoCgroup2) {
		t.Errorf("got %q, %v, want an error of its own", got, err)
	}
}

func FuzzFindCgroup2(f *testing.F) {
	f.Add("27 1 254:0 / / rw - ext4 /dev/vda rw\n40 27 0:38 / /a\\040b rw - cgroup2 c rw\n")
	f.Add("1 2 0:1 / / rw - cgroup2 c rw\n2 1 0:1 / / rw - cgroup2 c rw\n")
	f.Fuzz(func(t *testing.T, mountinfo string) {
		got, err := kernel.FindCgroup2(strings.NewReader(mountinfo))
		if (got == "") == (err == nil) {
			t.Errorf("got %q with error %v", got, err)
		}
	})
}
