package config_test

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/agent/config"
	"holdfast/internal/obs"
)

// TestStoreParameters: each parameter that a store takes in its URL, a configuration takes too.
func TestStoreParameters(t *testing.T) {
	getenv := func(name string) string {
		return map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}[name]
	}
	server := httptest.NewTLSServer(nil) // for its certificate alone
	server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		"s3://bucket/p?endpoint=https://host&region=r&addressing=virtual&integrity=crc64nvme&encryption=kms&kms-key=k&class=STANDARD_IA&retain=30d",
		"obs://bucket/p?endpoint=https://host&region=r&integrity=sha256&encryption=kms&kms-key=k&class=WARM&retain=12h&traffic-limit=819200",
		"s3://bucket/p?endpoint=https://host&region=r&proxy=http://proxy.example.com:3128&family=4&connect-timeout=5s&ca-file=" + ca,
		"obs://bucket/p?endpoint=https://host&region=r&proxy=none&ca-file=" + ca,
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
