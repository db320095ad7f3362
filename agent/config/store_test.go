package config_test

import (
	"strings"
	"testing"

	"holdfast/agent/config"
	"holdfast/internal/obs"
)

// TestStoreParameters: what a store takes in its URL, a configuration takes too.
func TestStoreParameters(t *testing.T) {
	getenv := func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}[name]
	}
	for _, url := range []string{
		"s3://bucket/p?endpoint=https://host&region=r&addressing=virtual&integrity=crc64nvme&encryption=kms&kms-key=k&class=STANDARD_IA&retain=30d",
		"obs://bucket/p?endpoint=https://host&region=r&integrity=sha256&encryption=kms&kms-key=k&class=WARM&retain=12h&traffic-limit=819200",
	} {
		if _, err := config.Parse([]byte(strings.Replace(minimal, "file:///backups", url, 1)), "test"); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		s, err := obs.Open(t.Context(), url, obs.Options{Getenv: getenv})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		_ = s.Close()
	}
}
