package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
)

// What stands between an agent and its control plane answers too, with any status:
// an ingress that is rolled out, a balancer without a backend, a portal for logging
// in, the welcome page of a web server. None of them may release an instance, or
// have a report forgotten, so only an answer that nobody else gives counts.

const (
	// codeOK is the error_code of the control plane's form when all is well.
	codeOK = "0"
	// gatewayCodes begin the codes of Huawei's API gateway, which
	// answers for itself in the same form.
	gatewayCodes = "APIG."
	// answerShown is how much of an answer is shown.
	answerShown = 200
)

// Verdict is the meaning of an answer for a report.
type Verdict int

// The verdicts.
const (
	Unsettled    Verdict = iota // nothing: the report is sent again
	Acknowledged                // the control plane has it
	Refused                     // the control plane will never take it
)

// Answer is the answer to a request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Broken error // why Body is not whole; nil when it is
}

// Judge tells the meaning of an answer to one event, sent alone, and why it is not
// acknowledged. Acknowledged means: status 204; status 200 with the control plane's form and
// the code "0", or with a header whose value is the event's id (no header of the request has
// it, so a server that repeats it has read the event); status 409 with the control plane's
// form that names the event's id. Refused means: status 400, 409, 410 or 422 with the control
// plane's form and another code. With any2xx each status from 200 to 299 acknowledges too.
//
// An answer with the event_id of another event says nothing
// about this event: a cache on the way may give such an answer.
func Judge(a Answer, id string, any2xx bool) (Verdict, error) {
	f, ok := a.form()
	if ok && f.isOf != "" && f.isOf != id && !(any2xx && a.Status/100 == 2) && a.Status != http.StatusNoContent {
		return Unsettled, fmt.Errorf("report.url answered %s for another event%s", statusText(a.Status), shown(a.Body))
	}
	switch {
	case any2xx && a.Status/100 == 2, a.Status == http.StatusNoContent:
		return Acknowledged, nil
	case a.Status == http.StatusOK && (ok && f.code == codeOK || a.repeats(id)):
		return Acknowledged, nil
	case a.Status == http.StatusConflict && ok && f.names(id):
		return Acknowledged, nil
	case ok && f.refuses() && (a.Status == http.StatusBadRequest || a.Status == http.StatusConflict ||
		a.Status == http.StatusGone || a.Status == http.StatusUnprocessableEntity):
		return Refused, fmt.Errorf("it answered %s%s", statusText(a.Status), shown(a.Body))
	}
	return Unsettled, a.why(ok)
}

// why says why an answer is not the control plane's word, and names a remedy.
func (a Answer) why(form bool) error {
	status := statusText(a.Status)
	switch {
	case a.Status/100 == 3:
		return fmt.Errorf("this was not the control plane: report.url answered %s%s; redirects are not followed, "+
			"so set report.url to the address that takes reports itself", status, redirect(a.Header))
	case a.Broken != nil:
		return fmt.Errorf("the answer (%s) broke off: %w", status, a.Broken)
	case a.Status/100 == 2 && form:
		return fmt.Errorf("the control plane answered %s, which does not acknowledge%s", status, shown(a.Body))
	case a.Status/100 == 2:
		return fmt.Errorf("this was not the control plane: %s without its form (%s)%s; a receiver that acknowledges with any status "+
			"from 200 to 299 needs report.acknowledge: any-2xx", status, contentType(a.Header), shown(a.Body))
	case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
		return fmt.Errorf("report.url answered %s%s; look at report.token_file", status, shown(a.Body))
	}
	return fmt.Errorf("report.url answered %s%s", status, shown(a.Body))
}

func statusText(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

func contentType(h http.Header) string {
	if kind, _, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil {
		return kind
	}
	return "no content type"
}

// redirect tells where an answer sends to, without what may be secret in it.
func redirect(h http.Header) string {
	u, err := url.Parse(h.Get("Location"))
	if err != nil || *u == (url.URL{}) {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return " to " + strconv.Quote(u.String())
}

// repeats tells whether a header of the answer has the event's id as its value.
func (a Answer) repeats(id string) bool {
	for _, values := range a.Header {
		for _, v := range values {
			if v == id && id != "" {
				return true
			}
		}
	}
	return false
}

// takesBatches tells whether an answer says that batches may be
// sent too, by the header Accept-Post.
func (a Answer) takesBatches() bool {
	for _, v := range a.Header.Values("Accept-Post") {
		for one := range strings.SplitSeq(v, ",") {
			if kind, _, err := mime.ParseMediaType(one); err == nil && kind == event.ApplicationCloudEventsBatchJSON {
				return true
			}
		}
	}
	return false
}

// form is the form that all answers of the control plane have:
// {"error_code": "0", "error_msg": "OK", "data": …}.
type form struct {
	code string
	isOf string   // event_id, also of data; "" where it does not say
	ids  []string // that it names, in id or event_id, also of data
	// of an answer to a batch, in data.events: id -> code; "" where it has several
	each map[string]string
}

// refuses tells whether the form is a refusal by the control plane itself.
func (f form) refuses() bool { return f.code != codeOK && !strings.HasPrefix(f.code, gatewayCodes) }

func (f form) names(id string) bool {
	for _, one := range f.ids {
		if one == id && id != "" {
			return true
		}
	}
	return false
}

// form reads the answer's body. Names of fields are compared
// exactly, and a field that is given twice makes it another form.
func (a Answer) form() (f form, ok bool) {
	if a.Broken != nil {
		return form{}, false
	}
	fields, ok := object(a.Body)
	if !ok {
		return form{}, false
	}
	if f.code, ok = text(fields["error_code"]); !ok || f.code == "" {
		return form{}, false
	}
	data, _ := object(fields["data"])
	for _, in := range []map[string]json.RawMessage{fields, data} {
		for _, key := range []string{"id", "event_id"} {
			if id, ok := text(in[key]); ok {
				f.ids = append(f.ids, id)
				if key == "event_id" {
					f.isOf = id
				}
			}
		}
	}
	var events []json.RawMessage
	if json.Unmarshal(data["events"], &events) != nil {
		return f, true
	}
	f.each = map[string]string{}
	for _, raw := range events {
		one, _ := object(raw)
		id, named := text(one["id"])
		code, coded := text(one["error_code"])
		if !named || !coded {
			continue
		}
		if _, twice := f.each[id]; twice {
			code = ""
		}
		f.each[id] = code
	}
	return f, true
}

// object reads one JSON object. ok is false for anything else, and where a field is given twice.
func object(data []byte) (fields map[string]json.RawMessage, ok bool) {
	if !json.Valid(data) { // also where another document follows
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil, false
	}
	fields = map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		name, isText := key.(string)
		var value json.RawMessage
		if err != nil || !isText || d.Decode(&value) != nil {
			return nil, false
		}
		if _, twice := fields[name]; twice {
			return nil, false
		}
		fields[name] = value
	}
	return fields, true
}

// text reads a JSON string.
func text(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	return s, json.Unmarshal(raw, &s) == nil
}

func shown(body []byte) string {
	text := strings.ToValidUTF8(string(bytes.TrimSpace(body)), "?")
	if text == "" {
		return ""
	}
	if len(text) > answerShown {
		text = strings.ToValidUTF8(text[:answerShown], "") + "…"
	}
	return ": " + strconv.Quote(text)
}
