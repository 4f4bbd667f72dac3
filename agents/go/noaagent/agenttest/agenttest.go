// Package agenttest runs an agent inside a test, over a real unix socket, and drives it with the generated client.
package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// Token is what the agents of this package demand.
const Token = "token-of-the-test"

// Running is an agent that serves.
type Running struct {
	// Client carries the token.
	Client agentpb.AgentServiceClient
	// Conn carries no token.
	Conn *grpc.ClientConn
	// Signals brings signals to the agent.
	Signals chan<- os.Signal
	// Stdin is the other end of the agent's stdin; closing it tells the agent that the engine is gone.
	Stdin io.Closer
	// Ended gets what Serve returned.
	Ended <-chan error
}

// Start serves a until the test ends, and returns once the agent takes calls, or fails the test.
func Start(t testing.TB, a *noaagent.Agent) *Running {
	t.Helper()
	dir, err := os.MkdirTemp("", "noa-agent-") // not t.TempDir(): a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket := "unix:" + filepath.Join(dir, "agent.sock")
	read, write := io.Pipe()
	signals, ended := make(chan os.Signal, 8), make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		ended <- a.ServeLaunch(ctx, noaagent.Launch{Listen: socket, Token: Token, Stdin: read, Signals: signals})
	}()
	conn := Dial(t, socket)
	t.Cleanup(func() {
		stop()
		<-served
		_ = os.RemoveAll(dir)
	})
	r := &Running{
		Client: WithToken(conn), Conn: conn, Signals: signals, Stdin: write, Ended: ended,
	}
	if _, err := r.Client.Health(Context(t), &agentpb.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return r
}

// An agent is seen soon after it listens.
var soon = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}

// Dial connects to an agent's address without a token.
func Dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Context ends after two minutes: no test waits for ever, and none fails on a slow machine.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(stop)
	return ctx
}

// AwaitServing returns once the agent takes work, or fails the test.
func (r *Running) AwaitServing(t testing.TB) *Running {
	t.Helper()
	for ctx := Context(t); ; {
		h, err := r.Client.Health(ctx, &agentpb.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_SERVING {
			return r
		}
		time.Sleep(time.Millisecond)
	}
}

// Request asks for an action with an input that is written as JSON. The execution and run ids are derived from id.
func Request(t testing.TB, id, action string, input any) *agentpb.ExecuteRequest {
	t.Helper()
	raw, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	return &agentpb.ExecuteRequest{
		ExecutionId: id, IdempotencyKey: id, RunId: "run-" + id, Task: "stage/task", Attempt: 1, Action: action,
		Input: &agentpb.Payload{Value: &agentpb.Payload_Inline{Inline: raw}},
	}
}

// Execute runs an execution to the end of its stream and returns its messages.
func (r *Running) Execute(t testing.TB, req *agentpb.ExecuteRequest) []*agentpb.ExecuteResponse {
	t.Helper()
	stream, err := r.Client.Execute(Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return Drain(t, stream)
}

// Call serves a until the test ends, asks it once for an action and returns its output or how it failed: all that many
// tests of an action need.
func Call[Out any](t testing.TB, a *noaagent.Agent, action string, input any) (out Out, failure *agentpb.Failure) {
	t.Helper()
	messages := Start(t, a).AwaitServing(t).Execute(t, Request(t, "call-"+action, action, input))
	if failure := Failure(t, messages); failure != nil {
		return out, failure
	}
	return Output[Out](t, messages), nil
}

// Drain reads a stream to its end.
func Drain(t testing.TB, stream grpc.ServerStreamingClient[agentpb.ExecuteResponse]) (all []*agentpb.ExecuteResponse) {
	t.Helper()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("after %d messages: %v", len(all), err)
		}
		all = append(all, m)
	}
}

// Failure returns how the messages of a stream end: its failure, or nil if it was completed.
func Failure(t testing.TB, messages []*agentpb.ExecuteResponse) *agentpb.Failure {
	t.Helper()
	last := last(t, messages)
	if last.GetFailed() == nil && last.GetCompleted() == nil {
		t.Fatalf("the last message is not terminal: %v", last)
	}
	return last.GetFailed().GetFailure()
}

// Output decodes the inline output that the messages of a stream end with.
func Output[Out any](t testing.TB, messages []*agentpb.ExecuteResponse) (out Out) {
	t.Helper()
	done := last(t, messages).GetCompleted()
	if done == nil {
		t.Fatalf("not completed: %v", last(t, messages))
	}
	if err := json.Unmarshal(done.GetOutput().GetInline(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func last(t testing.TB, messages []*agentpb.ExecuteResponse) *agentpb.ExecuteResponse {
	t.Helper()
	if len(messages) == 0 {
		t.Fatal("the stream has no messages")
	}
	return messages[len(messages)-1]
}

type withToken struct{ grpc.ClientConnInterface }

func (c withToken) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.ClientConnInterface.Invoke(authorized(ctx), method, args, reply, opts...)
}

func (c withToken) NewStream(
	ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return c.ClientConnInterface.NewStream(authorized(ctx), desc, method, opts...)
}

func authorized(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+Token)
}

// WithToken adds the token to a connection.
func WithToken(conn grpc.ClientConnInterface) agentpb.AgentServiceClient {
	return agentpb.NewAgentServiceClient(withToken{conn})
}
