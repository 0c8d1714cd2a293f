// Generators whose version must be that of the library they generate for:
// ../../go.mod decides, and scripts/install-tools refuses a difference.
module faultline.dev/faultline/tools/generate

go 1.26.0

tool (
	github.com/cilium/ebpf/cmd/bpf2go
	google.golang.org/protobuf/cmd/protoc-gen-go
)

require (
	github.com/cilium/ebpf v0.22.0 // indirect
	golang.org/x/sys v0.43.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
