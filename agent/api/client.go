package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ErrNoAgent says that nobody listens at the socket: the agent does
// not run, or its socket is elsewhere.
var ErrNoAgent = errors.New("no agent answers")

// ErrCut says that the agent went away while it was called: it is being restarted, or was killed.
var ErrCut = errors.New("the connection to the agent was cut")

// maxAnswerBytes bounds an answer that the client reads: a list of 100,000 jobs is below it.
const maxAnswerBytes = 256 << 20

// maxEventBytes bounds one event.
const maxEventBytes = 1 << 20

// Client calls an agent by its operator socket. It is safe for concurrent use. Refusals are *Error.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient gives a client of the agent whose socket is at the given path. It does not connect yet.
func NewClient(socket string) *Client {
	var d net.Dialer
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) },
		DisableKeepAlives: true, // a command line makes a call or two; nothing is left to close
	}}}
}

// Info is about the agent as a whole.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var v Info
	err := c.call(ctx, http.MethodGet, "/v1/agent/info", "", nil, &v)
	return v, err
}

// Instances lists all instances, sorted by id.
func (c *Client) Instances(ctx context.Context) ([]InstanceInfo, error) {
	var v instanceList
	err := c.call(ctx, http.MethodGet, "/v1/agent/instances", "", nil, &v)
	return v.Instances, err
}

// Jobs lists the jobs that f lets through, newest first: all of
// them, page by page, or f.Limit of them.
func (c *Client) Jobs(ctx context.Context, f JobFilter) (list []JobInfo, err error) {
	most := f.Limit
	for {
		if most > 0 {
			f.Limit = min(most-len(list), maxJobs)
		}
		page, err := c.jobs(ctx, f)
		if err != nil {
			return nil, err
		}
		list = append(list, page.Jobs...)
		if page.Next == 0 || most > 0 && len(list) >= most {
			return list, nil
		}
		f.Before = page.Next
	}
}

// jobs asks for one page.
func (c *Client) jobs(ctx context.Context, f JobFilter) (v jobList, err error) {
	path := "/v1/agent/jobs"
	if f.TaskID != "" {
		path = "/v1/agent/tasks/" + url.PathEscape(f.TaskID)
	} else {
		q := url.Values{}
		if f.InstanceID != "" {
			q.Set("instance", f.InstanceID)
		}
		if f.Active {
			q.Set("active", "true")
		}
		if f.Before > 0 {
			q.Set("before", strconv.FormatUint(f.Before, 10))
		}
		if f.Limit > 0 {
			q.Set("limit", strconv.Itoa(f.Limit))
		}
		path += "?" + q.Encode()
	}
	err = c.call(ctx, http.MethodGet, path, "", nil, &v)
	return v, err
}

// Backup commands a backup of instances. The same request id gives
// the same task; "" makes a new one.
func (c *Client) Backup(ctx context.Context, requestID string, instanceIDs []string) (TaskAnswer, error) {
	body := struct {
		IDs []string `json:"instance_ids"`
	}{instanceIDs}
	var v TaskAnswer
	err := c.call(ctx, http.MethodPost, "/v1/agent/backup", requestID, body, &v)
	return v, err
}

// Cancel undoes the jobs of a task that can still be undone.
func (c *Client) Cancel(ctx context.Context, taskID string) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/tasks/"+url.PathEscape(taskID)+"/cancel", "", nil, nil)
}

// Release powers down an instance that is held.
func (c *Client) Release(ctx context.Context, instanceID string) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/instances/"+url.PathEscape(instanceID)+"/release", "", nil, nil)
}

// Resume lets an instance that is held run again.
func (c *Client) Resume(ctx context.Context, instanceID string) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/instances/"+url.PathEscape(instanceID)+"/resume", "", nil, nil)
}

// Drain makes the agent take no more commands.
func (c *Client) Drain(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/agent/drain", "", nil, nil)
}

// Throttle tells which limits the calls to the store have now.
func (c *Client) Throttle(ctx context.Context) (Throttle, error) {
	var v Throttle
	err := c.call(ctx, http.MethodGet, "/v1/agent/throttle", "", nil, &v)
	return v, err
}

// SetThrottle sets limits until the agent ends, in the place of
// those set before, and tells what holds then.
func (c *Client) SetThrottle(ctx context.Context, s ThrottleSetting) (Throttle, error) {
	var v Throttle
	err := c.call(ctx, http.MethodPut, "/v1/agent/throttle", "", s, &v)
	return v, err
}

// Watch calls fn for each event of a task until the task ends (nil), fn returns
// an error (which it returns), the agent goes away (ErrCut or ErrNoAgent) or
// ctx ends. Called again it begins with the present stage of each job, so
// whoever asks again after ErrCut misses stages in between, but no end.
func (c *Client) Watch(ctx context.Context, taskID string, fn func(Event) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/agent/tasks/"+url.PathEscape(taskID)+"/events", "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return decodeAnswer(resp, nil)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventBytes)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("watch task %s: %w", taskID, err)
		}
		if e.Type == EventError {
			return Refuse(e.ErrorCode, "%s", e.ErrorMsg)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("watch task %s: %w", taskID, cutOff(ctx, err))
	}
	return nil
}

// cutOff marks an error of a connection that stood.
func cutOff(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCut, err)
}

// call makes one call and decodes the data of its answer into v (nil: there is none).
func (c *Client) call(ctx context.Context, method, path, requestID string, body, v any) error {
	resp, err := c.do(ctx, method, path, requestID, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decodeAnswer(resp, v)
}

func (c *Client) do(ctx context.Context, method, path, requestID string, body any) (*http.Response, error) {
	header := http.Header{}
	if requestID != "" {
		header.Set(headerRequestID, requestID)
	}
	return c.doWith(ctx, method, path, header, body)
}

func (c *Client) doWith(ctx context.Context, method, path string, header http.Header, body any) (*http.Response, error) {
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, send)
	if err != nil {
		return nil, err
	}
	req.Header = header
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return nil, fmt.Errorf("%w at %s: %w", ErrNoAgent, c.socket, op.Err)
		}
		return nil, fmt.Errorf("call the agent at %s: %w", c.socket, cutOff(ctx, err))
	}
	return resp, nil
}

func decodeAnswer(resp *http.Response, v any) error {
	var a struct {
		Code string          `json:"error_code"`
		Msg  string          `json:"error_msg"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(&a); err != nil {
		return fmt.Errorf("answer of the agent (%s): %w", resp.Status, err)
	}
	if a.Code != CodeOK {
		e := &Error{Status: resp.StatusCode, Code: a.Code, Msg: a.Msg}
		if s, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); err == nil {
			e.RetryAfter = s
		}
		return e
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(a.Data, v); err != nil {
		return fmt.Errorf("answer of the agent: %w", err)
	}
	return nil
}
