package repotest_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// headless finds phrases that stand in the place of a noun. A reader has to guess the noun.
var headless = regexp.MustCompile(`(?i)\b(?:what|who|whoever|whatever) (?:is|was|it|they|the|this|that|others|came|has|had|have|a|an|one|stays|lies|does|did|nobody|somebody|else|became|can|could)\b|\b(?:one that|those that|those of|that of|the one that|ones that)\b`)

// headlessPerThousand is how many headless phrases 1000 words of a package's comments may have.
const headlessPerThousand = 1.0

// TestCommentsNameTheirSubjects counts headless phrases in comments, by package.
func TestCommentsNameTheirSubjects(t *testing.T) {
	words, found, first := map[string]int{}, map[string]int{}, map[string]string{}
	for _, f := range goFiles(t) {
		for _, group := range f.ast.Comments {
			text := strings.Join(strings.Fields(group.Text()), " ")
			words[f.pkg] += len(strings.Fields(text))
			hits := headless.FindAllString(text, -1)
			if found[f.pkg] += len(hits); len(hits) > 0 && first[f.pkg] == "" {
				first[f.pkg] = f.path + ": " + text
			}
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(words)) {
		if allowed := int(headlessPerThousand * float64(words[pkg]) / 1000); found[pkg] > allowed {
			t.Errorf("%s has %d phrases like \"what is\" or \"those that\" in the place of a noun in %d words of comments, and may have %d: name the subject, as in %s",
				pkg, found[pkg], words[pkg], allowed, first[pkg])
		}
	}
}

// headlessInDocuments is how many headless phrases 1000 words of all documents together may have.
// Some stand in clauses with a verb of their own, where they do no harm.
const headlessInDocuments = 1.5

// TestDocumentsNameTheirSubjects counts headless phrases in all documents.
func TestDocumentsNameTheirSubjects(t *testing.T) {
	words, found := 0, 0
	worst, most := "", 0
	for _, d := range documents(t) {
		if strings.Contains(d, "testdata/") {
			continue
		}
		fields := strings.Fields(read(t, d))
		n := len(headless.FindAllString(strings.Join(fields, " "), -1))
		words, found = words+len(fields), found+n
		if n > most {
			worst, most = d, n
		}
	}
	if allowed := int(headlessInDocuments * float64(words) / 1000); found > allowed {
		t.Errorf("the documents have %d phrases like \"what is\" or \"those that\" in the place of a noun in %d words, and may have %d: name the subject; most are in %s",
			found, words, allowed, worst)
	}
}
