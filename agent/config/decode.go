package config

import (
	"cmp"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"holdfast/internal/retention"
)

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Line, Column int    // from 1; 0 where the fault has no place in the file
	Path         string // such as instances[2].volumes[0].path; "" for the file as a whole
	Msg          string
}

// Faults is everything that is wrong with a configuration, in the order of
// the file. It is the error of Parse and CheckFiles, and is never empty.
type Faults struct {
	File string // as given to Parse
	List []Fault
}

// Error gives one line for each fault: file:line:column: path: message.
func (f *Faults) Error() string {
	lines := make([]string, len(f.List))
	for i, fault := range f.List {
		var b strings.Builder
		b.WriteString(f.File)
		if fault.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", fault.Line, fault.Column)
		}
		b.WriteString(": ")
		if fault.Path != "" {
			b.WriteString(fault.Path + ": ")
		}
		b.WriteString(fault.Msg)
		lines[i] = b.String()
	}
	return strings.Join(lines, "\n")
}

// source remembers where values stood, so that checks made later can name the place.
type source struct {
	file string
	at   map[string]place
}

type place struct{ line, column int }

// find gives the place of path or, where it is not in the file, of the nearest thing around it.
func (s *source) find(path string) place {
	for s != nil && path != "" {
		if p, ok := s.at[path]; ok {
			return p
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return place{}
}

// faults collects, one for each path: a value of the wrong type is not also reported as missing.
type faults struct {
	src  *source
	list []Fault
	seen map[string]bool
}

func (f *faults) add(path, format string, args ...any) {
	f.addAt(f.src.find(path), path, format, args...)
}

func (f *faults) addAt(at place, path, format string, args ...any) {
	if f.seen[path] {
		return
	}
	f.seen[path] = true
	f.list = append(f.list, Fault{Line: at.line, Column: at.column, Path: path, Msg: fmt.Sprintf(format, args...)})
}

// err is nil, or *Faults in the order of the file.
func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	slices.SortStableFunc(f.list, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	file := ""
	if f.src != nil {
		file = f.src.file
	}
	return &Faults{File: file, List: f.list}
}

// Parse turns the bytes of a file into a Config. Name is for messages only. An error is *Faults.
// Of the host it looks at the name only, for the default of host_id.
func Parse(data []byte, name string) (*Config, error) {
	src := &source{file: name, at: map[string]place{}}
	f := &faults{src: src, seen: map[string]bool{}}
	c := defaults()
	c.src = src
	if root, ok := parseYAML(f, data); ok {
		d := decoder{faults: f}
		d.value(root, reflect.ValueOf(c).Elem(), "")
		c.inherit()
		c.check(f)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// defaults is the meaning of an empty file.
func defaults() *Config {
	host, _ := os.Hostname() // an unreadable name is reported as a missing host_id
	return &Config{
		HostID:        host,
		StateDir:      DefaultStateDir,
		Listen:        DefaultListen,
		Socket:        DefaultSocket,
		MetricsListen: DefaultMetricsListen,
		Release:       DefaultRelease,
		Hold:          DefaultHold,
		OnFork:        OnForkHold,
		Compression:   Compression{Min: DefaultCompressionMin, Max: DefaultCompressionMax},
		Precopy:       Precopy{Rounds: DefaultPrecopyRounds, Enough: DefaultPrecopyEnough, Time: DefaultPrecopyTime},
		Base:          Base{Keep: true, MaxAge: DefaultBaseMaxAge, MinFree: DefaultBaseMinFree},
		Prepare:       Prepare{KeepReplaced: DefaultKeepReplaced, MinFree: MinFreeAuto, MinFreeInodes: DefaultMinFreeInodes, ClaimSilence: DefaultClaimSilence},
		Brake:         Brake{CPU: DefaultBrakeCPU, IO: DefaultBrakeIO, Memory: DefaultBrakeMemory},
		Limits: Limits{
			Memory: DefaultMemory, Jobs: DefaultJobs, Queue: DefaultQueue, Held: DefaultHeld,
			FrozenDeadline: DefaultFrozenDeadline, JobDeadline: DefaultJobDeadline, BackupAge: DefaultBackupAge, DrainTimeout: DefaultDrainTimeout,
			VerifiedWithin: DefaultVerifiedWithin, StorePatience: DefaultStorePatience,
			Requests: DefaultRequests, Connections: DefaultConnections,
		},
		Report: Report{
			Acknowledge: AcknowledgeControlPlane, Timeout: DefaultReportTimeout, Progress: DefaultReportProgress, Batch: DefaultReportBatch,
		},
		IAM:   IAM{Lookups: DefaultIAMLookups},
		Audit: Audit{MaxSize: DefaultAuditSize, Keep: DefaultAuditKeep},

		Retention: defaultRetention(),
		Log:       Log{Level: DefaultLogLevel, Format: DefaultLogFormat},
	}
}

// defaulter is an item of a list, or an optional part, that has defaults of its own.
type defaulter interface{ setDefaults() }

// shortForm is a mapping that may also be written as one value.
type shortForm interface{ setText(text string) }

func (v *Volume) setDefaults() { v.Snapshot = SnapshotAuto }
func (e *Exec) setDefaults()   { e.Timeout = DefaultCommandTimeout }
func (d *Docker) setDefaults() {
	d.Host, d.Timeout, d.StopTimeout = DefaultDockerHost, DefaultCommandTimeout, DefaultStopTimeout
}

// inherit fills in the settings that an instance takes from elsewhere in the file.
func (c *Config) inherit() {
	for i := range c.Instances {
		in := &c.Instances[i]
		if in.Release == "" {
			in.Release = c.Release
		}
		if in.Hold == "" {
			in.Hold = c.Hold
		}
		if d := in.Runtime.Docker; d != nil && d.Container == "" {
			d.Container = in.ID
		}
	}
}

// decoder fills Go values from nodes and goes on after a fault, so that all are found in one run.
type decoder struct{ *faults }

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
	spanType     = reflect.TypeFor[Span]()
)

// value decodes node into v, which keeps its old value (a default) where node is null or faulty.
func (d *decoder) value(node ast.Node, v reflect.Value, path string) {
	switch node.(type) {
	case nil, *ast.NullNode:
		if single(v) { // nothing stands behind the key: nobody means a default by that
			d.add(path, "is left empty: leave the key out for its default, or write \"\" for none")
			return
		}
		// "docker:" with nothing behind it is there, all defaults
		if v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct {
			d.pointer(nil, v, path)
		}
		return
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		d.addAt(placeOf(node), path, "anchors, aliases and tags are not taken")
		return
	}
	if v.CanAddr() {
		if short, ok := v.Addr().Interface().(shortForm); ok {
			if text, single := scalarText(node); single {
				short.setText(text)
				return
			}
		}
	}
	switch {
	case v.Kind() == reflect.Struct:
		d.mapping(node, v, path)
	case v.Kind() == reflect.Pointer:
		d.pointer(node, v, path)
	case v.Kind() == reflect.Slice:
		d.sequence(node, v, path)
	case v.Kind() == reflect.Map:
		d.names(node, v, path)
	default:
		d.scalar(node, v, path)
	}
}

// single tells whether a value is written as one scalar.
func single(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Slice, reflect.Map:
		return false
	default:
		return true
	}
}

func (d *decoder) pointer(node ast.Node, v reflect.Value, path string) {
	v.Set(reflect.New(v.Type().Elem()))
	if def, ok := v.Interface().(defaulter); ok {
		def.setDefaults()
	}
	d.value(node, v.Elem(), path)
}

func (d *decoder) mapping(node ast.Node, v reflect.Value, path string) {
	m, ok := node.(ast.MapNode)
	if !ok {
		d.addAt(placeOf(node), path, "must be a mapping (key: value), got %s", what(node))
		return
	}
	fields := map[string]int{}
	var names []string
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag != "" {
			fields[tag] = i
			names = append(names, tag)
		}
	}
	given := map[string]bool{}
	for it := m.MapRange(); it.Next(); {
		key := it.Key().GetToken().Value
		at := placeOf(it.Key())
		sub := key
		if path != "" {
			sub = path + "." + key
		}
		i, known := fields[key]
		switch {
		case !known && len(names) == 0:
			d.addAt(at, sub, "unknown key; nothing is known here")
		case !known:
			d.addAt(at, sub, "unknown key; known here: %s", strings.Join(names, ", "))
		case given[key]:
			d.addAt(at, sub, "is given twice")
		default:
			given[key] = true
			d.src.at[sub] = at
			if p := placeOf(it.Value()); p != (place{}) && it.Value().Type() != ast.NullType {
				d.src.at[sub] = p
			}
			// the token of a mapping is its first colon
			if mv, ok := it.Value().(ast.MapNode); ok && mv != nil {
				d.src.at[sub] = at
			}
			d.value(it.Value(), v.Field(i), sub)
		}
	}
}

// names decodes a mapping whose keys are free: names of something else.
func (d *decoder) names(node ast.Node, v reflect.Value, path string) {
	m, ok := node.(ast.MapNode)
	if !ok {
		d.addAt(placeOf(node), path, "must be a mapping (name: value), got %s", what(node))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for it := m.MapRange(); it.Next(); {
		key := reflect.ValueOf(it.Key().GetToken().Value)
		sub := path + "." + key.String()
		d.src.at[sub] = placeOf(it.Key())
		if v.MapIndex(key).IsValid() {
			d.add(sub, "is given twice")
			continue
		}
		el := reflect.New(v.Type().Elem()).Elem()
		d.value(it.Value(), el, sub)
		v.SetMapIndex(key, el)
	}
}

func (d *decoder) sequence(node ast.Node, v reflect.Value, path string) {
	s, ok := node.(*ast.SequenceNode)
	if !ok {
		d.addAt(placeOf(node), path, "must be a list (- item), got %s", what(node))
		return
	}
	for i, item := range s.Values {
		sub := path + "[" + strconv.Itoa(i) + "]"
		at := placeOf(item)
		if m, ok := item.(ast.MapNode); ok {
			if it := m.MapRange(); it.Next() {
				at = placeOf(it.Key())
			}
		}
		d.src.at[sub] = at
		el := reflect.New(v.Type().Elem())
		if def, ok := el.Interface().(defaulter); ok {
			def.setDefaults()
		}
		if _, null := item.(*ast.NullNode); null || item == nil {
			d.add(sub, "is empty")
		}
		d.value(item, el.Elem(), sub)
		v.Set(reflect.Append(v, el.Elem()))
	}
}

func (d *decoder) scalar(node ast.Node, v reflect.Value, path string) {
	text, ok := scalarText(node)
	if !ok {
		d.addAt(placeOf(node), path, "must be a single value, got %s", what(node))
		return
	}
	_, isBool := node.(*ast.BoolNode)
	var err error
	switch {
	case v.Type() == durationType:
		var t time.Duration
		if t, err = time.ParseDuration(text); err != nil {
			err = fmt.Errorf("must be a time such as 30s or 1h30m, got %s", quote(text))
		}
		v.SetInt(int64(t))
	case v.Type() == spanType:
		var t time.Duration
		if t, err = retention.ParseSpan(text); err != nil {
			err = fmt.Errorf("%w; got %s", err, quote(text))
		}
		v.SetInt(int64(t))
	case v.Type() == sizeType:
		var s Size
		if s, err = ParseSize(text); err != nil {
			err = fmt.Errorf("must be a size such as 256MiB, got %s", quote(text))
		}
		v.SetInt(int64(s))
	case v.Kind() == reflect.Bool:
		if !isBool {
			err = fmt.Errorf("must be true or false, got %s", quote(text))
			break
		}
		v.SetBool(text == "true" || text == "True" || text == "TRUE")
	case v.Kind() == reflect.Int:
		var n int64
		if n, err = strconv.ParseInt(text, 10, 32); err != nil {
			err = fmt.Errorf("must be a whole number, got %s", quote(text))
		}
		v.SetInt(n)
	case isBool: // a name that YAML reads as something else: say how it is written
		err = fmt.Errorf("must be text, got the truth value %s; put it in quotes", text)
	default:
		v.SetString(text)
	}
	if err != nil {
		d.addAt(placeOf(node), path, "%s", err)
	}
}

// scalarText gives the text of a single value as it was written. Numbers are taken
// for text: ids of tenants are numbers at some services, and the written text counts.
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func what(node ast.Node) string {
	switch node.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	if text, ok := scalarText(node); ok {
		return quote(text)
	}
	return "something else"
}

// quote gives a value for a message, cut where it is long (a key pasted at the wrong place).
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "..."
}
