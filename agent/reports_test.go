package agent_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"holdfast/agent/api"
)

// collect reads events until one of the given type, of the given instance, came.
func (h *host) collect(after *uint64, kind, instance string) (got []api.ReportEvent) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	enough := errors.New("enough")
	err := api.NewClient(h.in("s")).Reports(ctx, after, func(e api.ReportEvent) error {
		got = append(got, e)
		if e.Type == kind && e.InstanceID == instance {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		h.t.Fatalf("after %d events: %v", len(got), err)
	}
	return got
}

// Events are what reports carry, in order, and go on where a reader
// was, also after a restart; each tenant gets its own.
func TestEvents(t *testing.T) {
	h := newHost(t)
	h.start()
	h.backup("acme", "r1", "phone-1")
	zero := uint64(0)
	first := h.collect(&zero, "holdfast.instance.released", "phone-1")
	var kinds []string
	for i, e := range first {
		kinds = append(kinds, e.Type)
		if e.Seq != uint64(i)+1 || e.InstanceID != "phone-1" || e.TaskID == "" || e.Time.IsZero() {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if fmt.Sprint(kinds) != "[holdfast.backup.started holdfast.backup.completed holdfast.instance.released]" || !strings.Contains(string(first[1].Data), `"receipt"`) {
		t.Errorf("%v: %s", kinds, first[1].Data)
	}
	h.eventually("reported", func() bool { return h.plane.took("holdfast.instance.released", "phone-1") != nil })

	h.stop()
	h.start()
	h.backup("other", "r2", "phone-3")
	h.backup("acme", "r3", "phone-2")
	h.eventually("released", func() bool {
		return h.plane.took("holdfast.instance.released", "phone-3") != nil && h.plane.took("holdfast.instance.released", "phone-2") != nil
	})
	rest := h.collect(&first[1].Seq, "holdfast.instance.released", "phone-2")
	if rest[0].Seq != 3 || rest[0].ID != first[2].ID {
		t.Errorf("after a restart: %+v", rest[0])
	}
	// Of a journal that is gone: everything that there is, after a word about it.
	future := uint64(1 << 40)
	if all := h.collect(&future, "holdfast.instance.released", "phone-1"); all[0].Type != api.ReportGap || all[0].Seq != 0 || all[1].Seq != 1 {
		t.Errorf("from the future: %+v", all)
	}

	// Over the network, a tenant gets its own events,
	// and their numbers pass over the hidden events.
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+h.agent.Addr()+"/v1/agent/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"X-Auth-Token": {h.tokens["other"]}, "X-Request-Id": {"r"}, "Last-Event-Id": {"0"}}
	resp, err := h.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var events int
	for lines := bufio.NewScanner(resp.Body); events < 3 && lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events++
			if !strings.Contains(data, `"instance_id":"phone-3"`) {
				t.Errorf("a tenant is told %s", data)
			}
		}
	}
}
