package noaagent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// spin keeps a core busy until it is cancelled.
func spin(ctx context.Context, _ *Execution, _ struct{}) (struct{}, error) {
	for ctx.Err() == nil {
	}
	return struct{}{}, nil
}

func TestHealthAnswersWhileActionsKeepEveryCoreBusy(t *testing.T) {
	address := "unix:" + filepath.Join(t.TempDir(), "a.sock")
	cmd, _ := launched(t, "NOA_AGENT_LISTEN="+address, "NOA_AGENT_TOKEN=x", "NOA_AGENT_PROTOCOL=1")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := agentpb.NewAgentServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer x")
	for serving := false; !serving; {
		h, err := client.Health(ctx, &agentpb.HealthRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		serving = h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_SERVING
	}
	for i := range 8 {
		stream, err := client.Execute(ctx, &agentpb.ExecuteRequest{ExecutionId: fmt.Sprint(i), RunId: "r", Action: "spin"})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var took []time.Duration // mostly after the agent has seen that its actions compute
	for range 60 {
		begun := time.Now()
		if _, err := client.Health(ctx, &agentpb.HealthRequest{}); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("Health takes %v in the median, %v at most", median, took[len(took)-1])
	}
	t.Logf("median %v, most %v", took[len(took)/2], took[len(took)-1])
}
