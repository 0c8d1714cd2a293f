package disk

import (
	"sync"

	"faultline.dev/faultline/faults/kernel"
)

// layout is struct fl_bio_layout.
type layout struct {
	BioOperation    uint32
	BioFlags        uint32
	BioSector       uint32
	BioSize         uint32
	BioDevice       uint32
	BioGroup        uint32
	DeviceNumber    uint32
	DeviceStart     uint32
	DeviceDisk      uint32
	DiskWhole       uint32
	GroupBlkcg      uint32
	BlkcgCgroup     uint32
	CgroupLevel     uint32
	CgroupAncestors uint32
	CgroupNode      uint32
	NodeID          uint32
	Preflush        uint32
	Metadata        uint32
	Seen            uint32
}

// readLayout asks the kernel's types, which don't change.
var readLayout = sync.OnceValues(func() (layout, error) {
	var l layout
	err := kernel.Offsets(map[string]*uint32{
		"bio.bi_opf":                 &l.BioOperation,
		"bio.bi_flags":               &l.BioFlags,
		"bio.bi_iter.bi_sector":      &l.BioSector,
		"bio.bi_iter.bi_size":        &l.BioSize,
		kernel.BioDevice:             &l.BioDevice,
		"bio.bi_blkg":                &l.BioGroup,
		"block_device.bd_dev":        &l.DeviceNumber,
		"block_device.bd_start_sect": &l.DeviceStart,
		"block_device.bd_disk":       &l.DeviceDisk,
		"gendisk.part0":              &l.DiskWhole,
		"blkcg_gq.blkcg":             &l.GroupBlkcg,
		"blkcg.css.cgroup":           &l.BlkcgCgroup,
		"cgroup.level":               &l.CgroupLevel,
		kernel.CgroupAncestors:       &l.CgroupAncestors,
		"cgroup.kn":                  &l.CgroupNode,
		"kernfs_node.id":             &l.NodeID,
	})
	if err != nil {
		return l, err
	}
	var preflush, metadata, seen uint32
	if err := kernel.Constants(map[string]*uint32{"__REQ_PREFLUSH": &preflush, "__REQ_META": &metadata, "BIO_TRACE_COMPLETION": &seen}); err != nil {
		return l, err
	}
	l.Preflush, l.Metadata, l.Seen = 1<<preflush, 1<<metadata, 1<<seen
	return l, nil
})
