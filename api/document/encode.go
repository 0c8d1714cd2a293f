package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// Format is a way to write a document.
type Format string

// The formats.
const (
	YAML Format = "yaml"
	JSON Format = "json"
)

// Encode writes an experiment in canonical form: fields in the order of the
// schema, durations as "1m30s", sizes and rates with the largest unit in which
// they are whole numbers. Decode reads the same experiment from it. What a
// document can't hold (negative durations, NaN, enum values without a name) is
// an error.
func Encode(e *v1.Experiment, format Format) ([]byte, error) { return Marshal(e, format) }

// Marshal is Encode for any message of the contract, such as a single fault.
func Marshal(m proto.Message, format Format) ([]byte, error) {
	tree, err := treeMaker{forPeople: true}.message(m.ProtoReflect(), "")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	switch format {
	case YAML:
		return encodeYAML(tree)
	case JSON:
		return encodeJSON(tree)
	}
	return nil, fmt.Errorf("unknown format %q (allowed: %s, %s)", format, YAML, JSON)
}

// MarshalJSON writes a message as programs read it: protobuf's JSON with the
// fields that hold their default, two spaces of indent, and integers of 64 bits
// as numbers. protojson reads it back.
func MarshalJSON(m proto.Message) ([]byte, error) {
	tree, err := treeMaker{}.message(m.ProtoReflect(), "")
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return encodeJSON(tree)
}

// encodeJSON ends with a newline.
func encodeJSON(tree any) ([]byte, error) {
	var b bytes.Buffer
	if err := writeJSON(&b, tree, "\n"); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// writeJSON begins lines with indent, which includes the newline.
func writeJSON(b *bytes.Buffer, tree any, indent string) error {
	switch v := tree.(type) {
	case literal:
		b.WriteString(string(v))
	case string:
		return writeJSONString(b, v)
	case []any:
		if len(v) == 0 {
			b.WriteString("[]")
			return nil
		}
		for i, item := range v {
			b.WriteString(opening(i, "[") + indent + "  ")
			if err := writeJSON(b, item, indent+"  "); err != nil {
				return err
			}
		}
		b.WriteString(indent + "]")
	case object:
		if len(v.members) == 0 {
			b.WriteString("{}")
			return nil
		}
		for i, m := range v.members {
			b.WriteString(opening(i, "{") + indent + "  ")
			if err := writeJSONString(b, m.name); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := writeJSON(b, m.value, indent+"  "); err != nil {
				return err
			}
		}
		b.WriteString(indent + "}")
	default:
		return fmt.Errorf("encoding %T: no such kind of value", tree)
	}
	return nil
}

func opening(i int, first string) string {
	if i == 0 {
		return first
	}
	return ","
}

func writeJSONString(b *bytes.Buffer, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("encoding %q: not UTF-8", s)
	}
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return err
	}
	b.Truncate(b.Len() - 1) // the encoder's newline
	return nil
}

func encodeYAML(tree any) ([]byte, error) {
	n, err := yamlNode(tree)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("encoding YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("encoding YAML: %w", err)
	}
	return b.Bytes(), nil
}

func yamlNode(tree any) (*yaml.Node, error) {
	switch v := tree.(type) {
	case literal:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: string(v)}, nil
	case string:
		return yamlString(v)
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, item := range v {
			child, err := yamlNode(item)
			if err != nil {
				return nil, err
			}
			if child.Kind != yaml.ScalarNode || child.Style&yaml.LiteralStyle != 0 {
				n.Style = 0
			}
			n.Content = append(n.Content, child)
		}
		return n, nil
	case object:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, m := range v.members {
			key, err := yamlString(m.name)
			if err != nil {
				return nil, err
			}
			value, err := yamlNode(m.value)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, key, value)
		}
		return n, nil
	}
	return nil, fmt.Errorf("encoding %T: no such kind of value", tree)
}

var (
	// simpleText needs quotes only where YAML's rules for plain scalars say so,
	// which the encoder knows.
	simpleText = regexp.MustCompile(`^[!-~]([ -~]*[!-~])?$`)
	// scriptText is safe as a literal block: no line begins or ends with a
	// blank, the first has content, one newline ends the last.
	scriptText = regexp.MustCompile(`^[!-~]([ -~]*[!-~])?\n((( *)[!-~]([ -~]*[!-~])?)?\n)*( *)[!-~]([ -~]*[!-~])?\n$`)
)

func yamlString(s string) (*yaml.Node, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("encoding %q: not UTF-8", s)
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	switch {
	case scriptText.MatchString(s):
		n.Style = yaml.LiteralStyle
	case !simpleText.MatchString(s) || numberLike.MatchString(s) || isBool(s) || isNull(s) || strings.HasPrefix(s, "<<"):
		n.Style = yaml.DoubleQuotedStyle
	}
	return n, nil
}
