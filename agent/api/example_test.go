package api_test

import (
	"context"
	"errors"
	"fmt"

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
