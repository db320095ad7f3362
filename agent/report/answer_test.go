package report_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"holdfast/agent/report"
)

const eventID = "8d3f-42"

func TestJudge(t *testing.T) {
	const (
		ok      = `{"error_code":"0","error_msg":"OK"}`
		no      = `{"error_code":"KOOPHONE.API.1000","error_msg":"The request parameter is incorrect"}`
		gateway = `{"error_code":"APIG.0106","error_msg":"Orchestration error: ...","request_id":"36e4"}`
		nginx   = "<!DOCTYPE html><html><head><title>Welcome to nginx!</title></head></html>"
	)
	own := http.Header{"Ce-Id": {eventID}}
	type want struct {
		verdict report.Verdict
		words   string
	}
	taken, refused := want{verdict: report.Acknowledged}, want{report.Refused, ""}
	again := func(words string) want { return want{report.Unsettled, words} }
	for _, c := range []struct {
		status int
		header http.Header
		body   string
		want   want
	}{
		{204, nil, "", taken},
		{200, nil, ok, taken},
		{200, nil, ` {"error_msg":"OK","data":{"x":[1]},"error_code":"0"} `, taken},
		{200, own, "", taken},
		{200, http.Header{"X-Request-Id": {"a", eventID}}, nginx, taken},
		{409, nil, `{"error_code":"KOOPHONE.API.1000","error_msg":"duplicate","data":{"event_id":"` + eventID + `"}}`, taken},
		{409, nil, `{"error_code":"0","error_msg":"OK","id":"` + eventID + `"}`, taken},

		{200, nil, `{"error_code":"0","id":"of the receiver","data":{"event_id":"` + eventID + `"}}`, taken},
		{200, nil, `{"error_code":"0","id":"of the receiver"}`, taken},
		{200, nil, `{"error_code":"0","event_id":"8d3f-41"}`, again("another event")},
		{422, nil, `{"error_code":"X","data":{"event_id":"8d3f-41"}}`, again("another event")},

		{400, nil, no, refused},
		{409, nil, no, refused},
		{410, nil, no, refused},
		{422, nil, no, refused},
		{409, nil, `{"error_code":"KOOPHONE.API.1000","error_msg":"conflict of ` + eventID + `","id":"8d3f-4"}`, refused},

		{200, nil, nginx, again("not the control plane")},
		{200, nil, "", again("any-2xx")},
		{200, nil, no, again("does not acknowledge")},
		{200, nil, `{"error_code":0,"error_msg":"OK"}`, again("not the control plane")},
		{200, nil, `{"Error_Code":"0"}`, again("not the control plane")},
		{200, nil, `{"error_code":"1","error_code":"0"}`, again("not the control plane")},
		{200, nil, `[{"error_code":"0"}]`, again("not the control plane")},
		{200, nil, `{"data":{"error_code":"0"}}`, again("not the control plane")},
		{200, nil, ok + ok, again("not the control plane")},
		{200, nil, ok[:20], again("not the control plane")},
		{200, nil, `"0"`, again("not the control plane")},
		{200, http.Header{"Ce-Id": {"8d3f-4"}, "X-Id": {eventID + "0"}}, "", again("not the control plane")},
		{201, nil, ok, again("does not acknowledge")},
		{202, nil, "", again("not the control plane")},
		{202, own, "", again("not the control plane")},
		{205, nil, "", again("not the control plane")},
		{206, nil, ok, again("does not acknowledge")},
		{299, nil, nginx, again("not the control plane")},
		{301, http.Header{"Location": {"https://u:p@login.example/sso?token=secret#x"}}, "", again(`to "https://login.example/sso"`)},
		{302, http.Header{"Location": {"%zz"}}, ok, again("redirects are not followed")},
		{304, own, "", again("not the control plane")},
		{307, nil, "", again("redirects are not followed")},
		{400, nil, nginx, again("400 Bad Request")},
		{400, nil, "", again("400")},
		{400, nil, ok, again("400")},
		{400, nil, gateway, again("APIG.0106")},
		{401, nil, no, again("report.token_file")},
		{403, nil, no, again("report.token_file")},
		{404, nil, no, again("404")},
		{404, nil, "default backend - 404", again("default backend")},
		{405, nil, no, again("405")},
		{408, nil, no, again("408")},
		{409, nil, nginx, again("409")},
		{409, own, nginx, again("409")},
		{409, nil, ok, again("409")},
		{410, nil, "gone", again("410")},
		{413, nil, no, again("413")},
		{415, nil, no, again("415")},
		{422, nil, `{"error":{"code":"invalid"}}`, again("422")},
		{429, nil, no, again("429")},
		{451, nil, no, again("451")},
		{500, nil, no, again("500")},
		{500, own, ok, again("500")},
		{503, nil, ok, again("503")},
		{599, nil, ok, again("599")},
		{999, nil, ok, again("999")},
	} {
		verdict, err := report.Judge(report.Answer{Status: c.status, Header: c.header, Body: []byte(c.body)}, eventID, false)
		if verdict != c.want.verdict || !strings.Contains(fmt.Sprint(err), c.want.words) || (err == nil) != (verdict == report.Acknowledged) {
			t.Errorf("%d %v %q: %d, %v", c.status, c.header, c.body, verdict, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a secret is shown: %v", err)
		}
		// By the old rule the status says it all.
		verdict, err = report.Judge(report.Answer{Status: c.status, Header: c.header, Body: []byte(c.body)}, eventID, true)
		wanted := c.want.verdict
		if c.status/100 == 2 {
			wanted = report.Acknowledged
		}
		if verdict != wanted {
			t.Errorf("any-2xx: %d %v %q: %d, %v", c.status, c.header, c.body, verdict, err)
		}
	}
	// A body that broke off says nothing, whatever its first part says.
	for _, status := range []int{200, 400, 409} {
		a := report.Answer{Status: status, Body: []byte(ok), Broken: errors.New("unexpected EOF")}
		if verdict, err := report.Judge(a, eventID, false); verdict != report.Unsettled || !strings.Contains(err.Error(), "unexpected EOF") {
			t.Errorf("%d, cut off: %d, %v", status, verdict, err)
		}
	}
	// An event without an id is acknowledged by no header and no field.
	if verdict, _ := report.Judge(report.Answer{Status: 200, Header: http.Header{"X": {""}}}, "", false); verdict != report.Unsettled {
		t.Error("an empty header acknowledges")
	}
}

// FuzzJudge: an answer that acknowledges, or refuses, has a status for that, with any body.
func FuzzJudge(f *testing.F) {
	f.Add(200, "Ce-Id", "x", `{"error_code":"0"}`)
	f.Add(409, "", "", `{"error_code":"1","id":"`+eventID+`"}`)
	f.Add(200, "", "", `{"data":{"events":[{"id":"a","error_code":"0"},null,7]},"error_code":"0"}`)
	f.Fuzz(func(t *testing.T, status int, key, value, body string) {
		verdict, err := report.Judge(report.Answer{Status: status, Header: http.Header{key: {value}}, Body: []byte(body)}, eventID, false)
		switch verdict {
		case report.Acknowledged:
			if err != nil || status != 204 && status != 200 && status != 409 || status == 200 && value != eventID && !strings.Contains(body, "error_code") {
				t.Errorf("acknowledged: %v", err)
			}
		case report.Refused:
			if err == nil || status != 400 && status != 409 && status != 410 && status != 422 {
				t.Errorf("refused: %v", err)
			}
		case report.Unsettled:
			if err == nil {
				t.Error("no reason")
			}
		}
	})
}
