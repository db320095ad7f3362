package repotest_test

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// mayPanic are packages whose goroutines may end the process with a panic: each program
// or test that they are part of has one piece of work, or is no part of the agent.
var mayPanic = []string{"cmd/", "internal/bench", "internal/testbed", "internal/contain", "internal/e2e", "internal/crashpoint"}

// TestGoroutinesContainPanics: a panic on a goroutine ends the process, whoever
// waits for it. Code that an agent runs beside other work contains its panics:
// a contain.Group starts it, or its function calls the package contain.
func TestGoroutinesContainPanics(t *testing.T) {
	for _, f := range goFiles(t) {
		exempt := slices.ContainsFunc(mayPanic, func(pkg string) bool { return strings.HasPrefix(f.pkg+"/", strings.TrimSuffix(pkg, "/")+"/") })
		if f.test || exempt || isTestSupport(f.pkg) {
			continue
		}
		if slices.Contains(f.imports, "golang.org/x/sync/errgroup") {
			t.Errorf("%s: imports errgroup, whose goroutines end the process when they panic; use contain.Group", f.path)
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				if !contains(n.Call) {
					t.Errorf("%s: a go statement whose function does not contain its panics", f.path)
				}
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && startsBare(s.Sel.Name, n.Args) && !contains(n) {
					t.Errorf("%s: a call of %s whose function does not contain its panics", f.path, s.Sel.Name)
				}
			}
			return true
		})
	}
}

// startsBare tells calls that run a function on another goroutine: WaitGroup.Go,
// which is known by a function without a result, and the calls of singleflight.
func startsBare(name string, args []ast.Expr) bool {
	if name == "DoChan" {
		return true
	}
	if name != "Go" || len(args) != 1 {
		return false
	}
	literal, ok := args[0].(*ast.FuncLit)
	return ok && literal.Type.Results == nil
}

// contains tells whether a call mentions what contains panics.
func contains(n ast.Node) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && (id.Name == "contain" || id.Name == "contained") {
			found = true
		}
		return !found
	})
	return found
}
