package main

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

//go:generate go run ./internal/gencomments ../../api/faultline/v1alpha1 comments_gen.go

// comment is what the contract says about a field, "" when it says nothing.
func comment(fd protoreflect.FieldDescriptor) string {
	// The generated Go joins the names of nested messages with "_".
	message := string(fd.ContainingMessage().FullName())
	message = strings.TrimPrefix(message, string(fd.ParentFile().Package())+".")
	return comments[strings.ReplaceAll(message, ".", "_")+"."+string(fd.Name())]
}
