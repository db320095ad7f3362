package config

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// MaxFileBytes bounds the file: a thousand instances take a third of it,
// and a parser given the wrong file (a disk image) would take all memory.
const MaxFileBytes = 1 << 20

// maxNesting bounds how deep flow collections nest. The format needs four levels;
// the parser recurses, and Go ends the whole program when a stack overflows.
const maxNesting = 64

// byteOrderMark is what some editors begin a text in UTF-8 with.
var byteOrderMark = []byte{0xef, 0xbb, 0xbf}

// parseYAML gives the root of the only document, nil for an empty file. False: there are faults.
func parseYAML(f *faults, data []byte) (root ast.Node, ok bool) {
	switch {
	case len(data) > MaxFileBytes:
		f.add("", "is larger than %v", Size(MaxFileBytes))
		return nil, false
	case bytes.HasPrefix(data, byteOrderMark):
		f.addAt(place{1, 1}, "", "begins with a byte order mark (EF BB BF), which an editor has put there; save the file as UTF-8 without it")
		return nil, false
	case !utf8.Valid(data):
		f.addAt(placeOfInvalid(data), "", "is not UTF-8 text")
		return nil, false
	case tooDeep(data):
		f.add("", "nests brackets deeper than %d", maxNesting)
		return nil, false
	}
	// Earlier versions of go-yaml panicked on some broken input; should this
	// one too, then that is a syntax error as any other to an operator.
	defer func() {
		if p := recover(); p != nil {
			f.add("", "is not YAML")
			root, ok = nil, false
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		at, msg := place{1, 1}, err.Error()
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			msg = syntax.GetMessage()
			if t := syntax.GetToken(); t != nil && t.Position != nil {
				at = place{t.Position.Line, t.Position.Column}
			}
		}
		f.addAt(at, "", "syntax: %s", msg)
		return nil, false
	}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			f.addAt(placeOf(doc.Body), "", "a second document begins here; one file holds one")
			return nil, false
		}
		root = doc.Body
	}
	return root, true
}

// tooDeep counts brackets wherever they are, also in quotes and comments: nobody nests 64 of them.
func tooDeep(data []byte) bool {
	depth := 0
	for _, b := range data {
		switch b {
		case '[', '{':
			if depth++; depth > maxNesting {
				return true
			}
		case ']', '}':
			depth = max(depth-1, 0)
		}
	}
	return false
}

func placeOfInvalid(data []byte) place {
	at := place{1, 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 {
			break
		}
		if at.column++; r == '\n' {
			at = place{at.line + 1, 1}
		}
		data = data[n:]
	}
	return at
}

func placeOf(n ast.Node) place {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return place{}
	}
	p := n.GetToken().Position
	return place{p.Line, p.Column}
}
