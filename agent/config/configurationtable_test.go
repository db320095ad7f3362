package config_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/agent/config"
)

// allKinds is a configuration with one element of each list and mapping, and nothing that has a
// default.
const allKinds = `
tls:
  cert_file: /tls/cert
  key_file: /tls/key
  client_ca_file: /tls/ca
  clients: [{name: control, role: operator}]
tokens_file: /k/tokens
iam: {url: "https://iam.example.com/v3", roles: {admin: control-plane}}
store: {url: file:///backups}
key_file: /k/host
report: {url: "https://control.example.com/r"}
bandwidth: {schedule: [{up: 1MiB}]}
retention: {rules: [{keep_last: 1}]}
instances:
  - {id: a, tenant: t, runtime: {docker: {}}, volumes: [{name: data, path: /v/a}]}
  - {id: b, tenant: t, runtime: {exec: {freeze: [/f], thaw: [/t], power_down: [/p], start: [/s]}}, volumes: [{name: data, path: /v/b}]}
  - {id: c, tenant: t, runtime: {none: {}}, volumes: [{name: data, path: /v/c}]}
`

// words are defaults that docs/configuration.md tells in words, since each host or element has its
// own.
var words = map[string]string{
	"host_id": "the host's name", "instances[].runtime.docker.container": "the instance's id",
	"instances[].release": "as `release`", "instances[].hold": "as `hold`",
	"bandwidth.schedule[].days": "every day", "bandwidth.schedule[].up": "as outside",
	"bandwidth.schedule[].down": "as outside", "bandwidth.schedule[].requests": "as outside",
	"retention.rules[].keep_last":           "none",
	"retention.rules[].keep_hourly":         "none",
	"retention.rules[].keep_daily":          "none",
	"retention.rules[].keep_weekly":         "none",
	"retention.rules[].keep_monthly":        "none",
	"retention.rules[].keep_yearly":         "none",
	"retention.rules[].keep_within":         "none",
	"retention.rules[].keep_within_hourly":  "none",
	"retention.rules[].keep_within_daily":   "none",
	"retention.rules[].keep_within_weekly":  "none",
	"retention.rules[].keep_within_monthly": "none",
	"retention.rules[].keep_within_yearly":  "none",
}

// settings calls each for each key below v, with the default as docs/configuration.md writes it.
func settings(v reflect.Value, path string, each func(key, value string)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.Type().Elem().Kind() != reflect.Struct {
			each(path, "none")
		} else if v.Type().Elem().NumField() == 0 {
			each(path, "none")
		} else if !v.IsNil() {
			settings(v.Elem(), path, each)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if tag := v.Type().Field(i).Tag.Get("yaml"); tag != "" {
				settings(v.Field(i), strings.TrimPrefix(path+"."+tag, "."), each)
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			settings(v.MapIndex(k), path+".NAME", each)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Struct {
			each(path, "none")
			return
		}
		for i := range v.Len() {
			settings(v.Index(i), path+"[]", each)
		}
	default:
		each(path, written(v))
	}
}

// written is a value as docs/configuration.md writes it.
func written(v reflect.Value) string {
	var text string
	switch of := v.Interface().(type) {
	case time.Duration:
		text = of.String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
	default:
		text = fmt.Sprint(of)
	}
	if text == "" {
		return "none"
	}
	return "`" + text + "`"
}

// TestConfigurationTable holds docs/configuration.md to the program: each key has one row, with its
// default and with the moment at which a change takes effect.
func TestConfigurationTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		key, isKey := strings.CutPrefix(cells[0], "| `")
		if !isKey || len(cells) != 5 {
			continue
		}
		key = strings.TrimSuffix(key, "`")
		if rows[key] != nil {
			t.Errorf("docs/configuration.md has two rows for %s", key)
		}
		rows[key] = cells
	}
	c, err := config.Parse([]byte(allKinds), "all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	settings(reflect.ValueOf(*c), "", func(key, value string) {
		if slices.Contains(keys, key) {
			return // of another instance
		}
		keys = append(keys, key)
		row := rows[key]
		if row == nil {
			t.Errorf("docs/configuration.md has no row for %s", key)
			return
		}
		if w, ok := words[key]; ok {
			value = w
		}
		// allKinds has to give a value to these keys.
		given := row[2] == "required" || row[2] == "none" && strings.Contains(allKinds, key[strings.LastIndexByte(key, '.')+1:]+":")
		if row[2] != value && !given {
			t.Errorf("docs/configuration.md says that the default of %s is %s, and it is %s", key, row[2], value)
		}
		want := "restart |"
		if strings.HasPrefix(key, "bandwidth.") {
			want = "reload |"
		}
		if row[4] != want {
			t.Errorf("docs/configuration.md says that %s takes effect at %s", key, row[4])
		}
	})
	for key := range rows {
		if !slices.Contains(keys, key) {
			t.Errorf("docs/configuration.md has a row for %s, which is no key", key)
		}
	}
	if len(keys) < 90 {
		t.Errorf("only %d keys", len(keys))
	}
}
