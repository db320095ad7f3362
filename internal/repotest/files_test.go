package repotest_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// root is the module's folder, seen from this package.
const root = "../.."

// goFile is one Go file of the module.
type goFile struct {
	path    string // from the module's root
	pkg     string // its folder
	test    bool
	imports []string
	ast     *ast.File
}

// textFiles lists the files of the project, from the
// module's root, without build output and test data.
func textFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "build" || name == "dist" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.Type().IsRegular() && !strings.HasSuffix(name, ".sum"):
			files = append(files, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	for _, name := range textFiles(t) {
		if path.Ext(name) != ".go" {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		f := goFile{path: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: parsed}
		for _, i := range parsed.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
	}
	return files
}

func TestEachPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		if _, ok := comments[f.pkg]; !ok {
			comments[f.pkg] = nil
		}
		if f.ast.Doc == nil {
			continue
		}
		comments[f.pkg] = append(comments[f.pkg], f.path)
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command " + path.Base(f.pkg) + " "
		}
		if !strings.HasPrefix(f.ast.Doc.Text(), want) {
			t.Errorf("%s: the package comment does not begin with %q", f.path, want)
		}
	}
	for pkg, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments, want one: %v", pkg, len(files), files)
		}
	}
}

// later finds postponed work; it belongs into an issue.
var later = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)

func TestNothingIsPutOff(t *testing.T) {
	for _, name := range textFiles(t) {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(content, 0) >= 0 {
			continue // no text
		}
		for i, line := range bytes.Split(content, []byte("\n")) {
			if word := later.Find(line); word != nil {
				t.Errorf("%s:%d: %s", name, i+1, word)
			}
		}
	}
}

var (
	relative = regexp.MustCompile(`(?:\.\./)+[A-Za-z0-9._/-]*`)
	link     = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)
)

// TestNoFileRefersOutsideTheProject holds comments and documents to
// paths inside the module: nobody else has the folders around it.
func TestNoFileRefersOutsideTheProject(t *testing.T) {
	said := map[string]string{}
	for _, f := range goFiles(t) {
		for _, c := range f.ast.Comments {
			said[f.path] += c.Text()
		}
	}
	for _, name := range textFiles(t) {
		if path.Ext(name) == ".go" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(content, 0) < 0 {
			said[name] = string(content)
		}
	}
	for name, text := range said {
		for _, p := range relative.FindAllString(text, -1) {
			if strings.HasPrefix(path.Join(path.Dir(name), p), "..") {
				t.Errorf("%s refers to %s, outside the project", name, p)
			}
		}
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], ":") {
				continue // an address
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(name), m[1])); err != nil {
				t.Errorf("%s: link %s leads nowhere", name, m[1])
			}
		}
	}
}

var invariant = regexp.MustCompile(`\bInvariant ([a-z]+(?:-[a-z]+)+)\b`)

// TestEachInvariantHasItsTest finds, for each "Invariant manifest-last"
// that a comment names, the test TestInvariantManifestLast.
func TestEachInvariantHasItsTest(t *testing.T) {
	named, tested := map[string]string{}, map[string]bool{}
	for _, f := range goFiles(t) {
		for _, c := range f.ast.Comments {
			for _, m := range invariant.FindAllStringSubmatch(c.Text(), -1) {
				if f.pkg != "internal/repotest" {
					named[m[1]] = f.path
				}
			}
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test {
				tested[fn.Name.Name] = true
			}
		}
	}
	for name, where := range named {
		want := "TestInvariant"
		for word := range strings.SplitSeq(name, "-") {
			want += strings.ToUpper(word[:1]) + word[1:]
		}
		if !tested[want] {
			t.Errorf("%s names the invariant %s, but there is no %s", where, name, want)
		}
	}
}

// TestCIRunsTheCommandOfTheReadme keeps the first commands of README.md and of the CI the same.
func TestCIRunsTheCommandOfTheReadme(t *testing.T) {
	ci, err := os.ReadFile(filepath.Join(root, ".ci/run"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"make test"} {
		if !bytes.Contains(ci, []byte(command)) || !bytes.Contains(readme, []byte(command)) {
			t.Errorf("%q is not in both .ci/run and README.md", command)
		}
	}
}
