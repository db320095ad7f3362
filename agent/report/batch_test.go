package report_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/agent/model"
	"holdfast/agent/report"
)

// advertises is an acknowledgement that says that batches are taken.
var advertises = reply{status: 204, header: http.Header{"Accept-Post": {"application/cloudevents+json, application/cloudevents-batch+json"}}}

func waiting(n int) *box {
	b := newBox()
	for i := range n {
		b.events = append(b.events, ev(uint64(i+1), fmt.Sprint("phone-", i)))
	}
	return b
}

// each answers a batch: what code says for each event, "" leaves it out.
func each(events []model.Event, code func(model.Event) string) reply {
	var parts []string
	for _, e := range events {
		if c := code(e); c != "" {
			parts = append(parts, fmt.Sprintf(`{"id":%q,"error_code":%q}`, e.ID, c))
		}
	}
	return reply{status: 200, body: `{"error_code":"0","error_msg":"OK","data":{"events":[` + strings.Join(parts, ",") + `]}}`}
}

// A receiver that says that it takes batches gets them, and acknowledges each event by its id.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := waiting(500)
		b.once = []model.Event{ev(0, "other")}
		got, _ := deliver(t, b, func(_ int, e []model.Event) reply {
			if len(e) == 1 {
				return advertises
			}
			return each(e, func(model.Event) string { return "0" })
		}, time.Hour)
		if len(b.taken) != 500 || len(got) > 8+6 || b.flushes > len(got) {
			t.Errorf("%d taken with %d requests and %d flushes", len(b.taken), len(got), b.flushes)
		}
	})
}

func TestNoBatchUnasked(t *testing.T) {
	for name, c := range map[string]struct {
		answer reply
		batch  int
	}{"not said": {taken, 100}, "not configured": {advertises, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := waiting(50)
				got, _ := deliver(t, b, func(int, []model.Event) reply { return c.answer }, time.Hour, func(o *report.Options) { o.Batch = c.batch })
				if len(got) != 50 || len(b.taken) != 50 {
					t.Errorf("%d requests, %d taken", len(got), len(b.taken))
				}
			})
		})
	}
}

// Of a batch only those events are acknowledged that the answer
// names. All others are sent alone, which decides.
func TestBatchAnswers(t *testing.T) {
	odd := func(e model.Event) bool { return e.Seq%2 == 1 }
	for name, c := range map[string]struct {
		batch   func(events []model.Event) reply
		proved  func(model.Event) bool // by the first batch
		batches int                    // at most
	}{
		"half are named": {func(e []model.Event) reply {
			return each(e, func(e model.Event) string { return map[bool]string{true: "0"}[odd(e)] })
		}, odd, 50},
		"half have a code": {func(e []model.Event) reply {
			return each(e, func(e model.Event) string { return map[bool]string{true: "0", false: "X"}[odd(e)] })
		}, odd, 50},
		"named twice": {func(e []model.Event) reply {
			r := each(e, func(model.Event) string { return "0" })
			r.body = strings.Replace(r.body, `[{`, `[{"id":"`+e[0].ID+`","error_code":"X"},{`, 1)
			return r
		}, func(e model.Event) bool { return true }, 50},
		"no event is named": {func([]model.Event) reply { return reply{status: 200, body: `{"error_code":"0","error_msg":"OK"}`} }, nil, 8},
		"204":               {func([]model.Event) reply { return reply{status: 204} }, nil, 8},
		"415":               {func([]model.Event) reply { return reply{status: 415} }, nil, 8},
		"400 in the form": {func([]model.Event) reply {
			return reply{status: 400, body: `{"error_code":"KOOPHONE.API.1000","error_msg":"x"}`}
		}, nil, 8},
		"413 of a proxy": {func([]model.Event) reply { return reply{status: 413, body: "too large"} }, nil, 8},
		"500":            {func([]model.Event) reply { return reply{status: 500} }, nil, 8},
		"nginx":          {func([]model.Event) reply { return reply{status: 200, body: "<h1>Welcome to nginx!</h1>"} }, nil, 8},
		"other ids are named": {func(e []model.Event) reply {
			return each([]model.Event{{ID: "x"}, {ID: "y"}}, func(model.Event) string { return "0" })
		}, nil, 8},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := waiting(200)
				var mu sync.Mutex
				alone, batches := map[string]bool{}, 0
				named := map[string]bool{}
				deliver(t, b, func(_ int, e []model.Event) reply {
					mu.Lock()
					defer mu.Unlock()
					if len(e) == 1 {
						alone[e[0].ID] = true
						return advertises
					}
					batches++
					for _, one := range e {
						if alone[one.ID] {
							t.Errorf("%s was sent alone, and then in a batch", one.ID)
						}
						named[one.ID] = named[one.ID] || c.proved != nil && c.proved(one)
					}
					return c.batch(e)
				}, 5*time.Minute, func(o *report.Options) { o.Any2xx = name == "204" })
				if len(b.taken) != 200 || len(b.refused) != 0 {
					t.Errorf("%d taken, %d refused", len(b.taken), len(b.refused))
				}
				if batches == 0 || batches > c.batches {
					t.Errorf("%d batches were sent", batches)
				}
				for _, id := range b.taken {
					if !alone[id] && !named[id] {
						t.Errorf("%s was acknowledged and is named by no answer", id)
					}
				}
			})
		})
	}
}
