package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults"
	"faultline.dev/faultline/faults/fault"
)

func (a *app) faultsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "faults [NAME]",
		Short: "List the faults, or describe one with its fields, mechanisms and an example",
		Example: `  faultline faults
  faultline faults networkLoss
  faultline faults --output json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(fmt.Errorf("%s takes one name at the most, %d given", cmd.CommandPath(), len(args)))
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return kindNames(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	output := outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		catalogue := &v1.Catalogue{}
		if len(args) == 1 {
			kind, err := faults.Lookup(args[0])
			if err != nil {
				return usage(err)
			}
			catalogue.Faults = append(catalogue.Faults, entry(kind))
			return a.print(*output, catalogue, func(p *page) { writeKind(p, catalogue.GetFaults()[0]) })
		}
		for _, kind := range faults.Catalogue() {
			catalogue.Faults = append(catalogue.Faults, entry(kind))
		}
		return a.print(*output, catalogue, func(p *page) { writeKinds(p, catalogue) })
	}
	return cmd
}

func kindNames() []string {
	var names []string
	for _, kind := range faults.Catalogue() {
		names = append(names, kind.Name)
	}
	return names
}

// entry is a kind as plain data.
func entry(kind fault.Kind) *v1.CatalogueEntry {
	e := &v1.CatalogueEntry{
		Name:    kind.Name,
		Summary: kind.Summary,
		Scope:   string(kind.Scope),
		Built:   kind.Built(),
		Example: kind.Example,
	}
	for _, m := range kind.Mechanisms {
		e.Mechanisms = append(e.Mechanisms, &v1.CatalogueMechanism{Name: m.Name, Summary: m.Summary})
	}
	if fd := kindField(kind.Name); fd != nil {
		e.Fields = fieldsOf(fd.Message(), "")
	}
	return e
}

// kindField is the field of message Fault that holds a kind's settings.
func kindField(name string) protoreflect.FieldDescriptor {
	fd := (&v1.Fault{}).ProtoReflect().Descriptor().Fields().ByJSONName(name)
	if fd == nil || fd.Message() == nil {
		return nil
	}
	return fd
}

// fieldsOf lists the fields of a message, those of messages in it with a dot.
func fieldsOf(md protoreflect.MessageDescriptor, prefix string) []*v1.CatalogueField {
	var list []*v1.CatalogueField
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		list = append(list, &v1.CatalogueField{Name: prefix + fd.JSONName(), Type: typeName(fd), Summary: comment(fd)})
		if isStructure(fd) {
			inner := prefix + fd.JSONName() + "."
			if fd.IsList() {
				inner = prefix + fd.JSONName() + "[]."
			}
			list = append(list, fieldsOf(fd.Message(), inner)...)
		}
	}
	return list
}

// isStructure tells whether a field has fields of its own in a document.
func isStructure(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && !fd.IsMap() && fd.Message().ParentFile().Package() != "google.protobuf"
}

// typeName is what a person writes into the field.
func typeName(fd protoreflect.FieldDescriptor) string {
	one := ""
	switch {
	case fd.IsMap():
		return "mapping"
	case fd.Message() != nil && fd.Message().Name() == "Duration":
		one = "duration"
	case fd.Message() != nil:
		one = "object"
	case fd.Enum() != nil:
		one = strings.Join(enumNames(fd.Enum()), "|")
	default:
		one = scalarName(fd)
	}
	if fd.IsList() {
		return "list of " + one
	}
	return one
}

func scalarName(fd protoreflect.FieldDescriptor) string {
	switch proto.GetExtension(fd.Options(), v1.E_Unit).(v1.Unit) {
	case v1.Unit_BYTES:
		return "size"
	case v1.Unit_BIT_RATE:
		return "rate"
	}
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return "true|false"
	case protoreflect.StringKind:
		return "text"
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return "number"
	default:
		return "integer"
	}
}

// enumNames leaves out the value 0, which stands for none.
func enumNames(ed protoreflect.EnumDescriptor) []string {
	var names []string
	for i := range ed.Values().Len() {
		if v := ed.Values().Get(i); v.Number() != 0 {
			names = append(names, string(v.Name()))
		}
	}
	return names
}

func writeKinds(p *page, c *v1.Catalogue) {
	var rows [][]cell
	for _, e := range c.GetFaults() {
		rows = append(rows, []cell{text(e.GetName()), builtCell(p, e), text(e.GetScope()), text(e.GetSummary())})
	}
	p.table([]string{"FAULT", "BUILT", "SCOPE", "WHAT IT DOES"}, rows)
}

func builtCell(p *page, e *v1.CatalogueEntry) cell {
	if e.GetBuilt() {
		return cell{text: "yes", paint: p.good}
	}
	return cell{text: "not yet", paint: p.faint}
}

func writeKind(p *page, e *v1.CatalogueEntry) {
	p.line("%s", p.bold(e.GetName()))
	p.paragraph("  ", e.GetSummary())
	built := "in this version"
	if !e.GetBuilt() {
		built = "not built yet: documents are checked, but can't be run"
	}
	p.line("  scope: %s; %s", e.GetScope(), built)
	if len(e.GetFields()) > 0 {
		p.line("")
		var rows [][]cell
		for _, f := range e.GetFields() {
			rows = append(rows, []cell{text(f.GetName()), text(f.GetType()), text(f.GetSummary())})
		}
		p.table([]string{"FIELD", "TYPE", "WHAT IT IS"}, rows)
	}
	if len(e.GetMechanisms()) > 0 {
		p.line("")
		var rows [][]cell
		for _, m := range e.GetMechanisms() {
			rows = append(rows, []cell{text(m.GetName()), text(m.GetSummary())})
		}
		p.table([]string{"MECHANISM", "THE BEST FIRST"}, rows)
	}
	if e.GetExample() != "" {
		p.line("")
		p.line("%s", p.bold("EXAMPLE"))
		for l := range strings.SplitSeq(strings.TrimSpace(e.GetExample()), "\n") {
			p.line("  %s", l)
		}
	}
	p.line("")
	p.line("faultline inject %s --help says the same as flags.", e.GetName())
}
