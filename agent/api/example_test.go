package api_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"holdfast/agent/api"
)

// An operator's program asks an agent for its instances, and lets a held one run.
func ExampleClient() {
	ctx := context.Background()
	client := api.NewClient("/run/holdfast/no-such-agent.sock")
	instances, err := client.Instances(ctx)
	if err != nil {
		fmt.Println("no agent answers here")
		return
	}
	for _, in := range instances {
		fmt.Println(in.ID)
	}
	var refused *api.Error
	if err := client.Resume(ctx, "phone-0001"); errors.As(err, &refused) {
		fmt.Println("the agent refused:", refused.Code)
	}
	// Output: no agent answers here
}

// The agent refuses a call with a code, by which a program decides, and with a sentence for people.
func ExampleClient_Release() {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "holdfast.sock")
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		panic(err)
	}
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error_code": %q, "error_msg": "nothing to release (%s)"}`, api.CodeParameter, r.URL.Path)
	}))
	agent.Listener.Close()
	agent.Listener = listener
	agent.Start()
	defer agent.Close()

	err = api.NewClient(socket).Release(context.Background(), "phone-0001")
	var refused *api.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Code == api.CodeParameter, refused.Msg)
	}
	// Output: true nothing to release (/v1/agent/instances/phone-0001/release)
}
