package noaagent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

type empty struct{}

type object = map[string]any

// gate is an action that tells when it has started and returns when it is let go or, if it obeys, cancelled.
type gate struct {
	started chan string
	open    chan struct{}
	obeys   bool
}

func newGate(obeys bool) *gate {
	return &gate{started: make(chan string, 100), open: make(chan struct{}), obeys: obeys}
}

func (g *gate) work(ctx context.Context, x *noaagent.Execution, _ empty) (object, error) {
	g.started <- x.ID
	cancelled := ctx.Done()
	if !g.obeys {
		cancelled = nil
	}
	select {
	case <-g.open:
		return object{"id": x.ID}, nil
	case <-cancelled:
		return nil, ctx.Err()
	}
}

func newAgent(t testing.TB, g *gate) *noaagent.Agent {
	t.Helper()
	a := noaagent.New("test", "1.2.3").WithEcho()
	if g != nil {
		noaagent.Handle(a, noaagent.Action{Name: "gate"}, g.work)
	}
	return a
}

func start(t testing.TB, g *gate) *agenttest.Running {
	t.Helper()
	return agenttest.Start(t, newAgent(t, g)).AwaitServing(t)
}

func execute(t testing.TB, r *agenttest.Running, req *agentpb.ExecuteRequest) grpc.ServerStreamingClient[agentpb.ExecuteResponse] {
	t.Helper()
	stream, err := r.Client.Execute(agenttest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func wantCode(t testing.TB, messages []*agentpb.ExecuteResponse, code string, retryable bool) *agentpb.Failure {
	t.Helper()
	f := agenttest.Failure(t, messages)
	if f.GetCode() != code || f.GetRetryable() != retryable {
		t.Fatalf("got %v, want %s with retryable=%v", f, code, retryable)
	}
	if messages[0].GetAccepted() == nil {
		t.Fatalf("the first message is %v, want accepted", messages[0])
	}
	return f
}

func cancel(t testing.TB, r *agenttest.Running, req *agentpb.CancelRequest) *agentpb.CancelResponse {
	t.Helper()
	answer, err := r.Client.Cancel(agenttest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func byExecution(id string) *agentpb.CancelRequest {
	return &agentpb.CancelRequest{Target: &agentpb.CancelRequest_ExecutionId{ExecutionId: id}}
}

func byRun(id string) *agentpb.CancelRequest {
	return &agentpb.CancelRequest{Target: &agentpb.CancelRequest_RunId{RunId: id}}
}

const (
	cancelled = agentpb.CancelOutcome_CANCEL_OUTCOME_CANCELLED
	finished  = agentpb.CancelOutcome_CANCEL_OUTCOME_ALREADY_FINISHED
	unknown   = agentpb.CancelOutcome_CANCEL_OUTCOME_UNKNOWN
)

func TestCallsWithoutTheTokenAreRefused(t *testing.T) {
	r := start(t, nil)
	for name, md := range map[string]metadata.MD{
		"missing":   {},
		"wrong":     metadata.Pairs("authorization", "Bearer wrong"),
		"no scheme": metadata.Pairs("authorization", agenttest.Token),
		"empty":     metadata.Pairs("authorization", "Bearer "),
		"two":       metadata.Pairs("authorization", "Bearer wrong", "authorization", "Bearer "+agenttest.Token),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := metadata.NewOutgoingContext(agenttest.Context(t), md)
			client := agentpb.NewAgentServiceClient(r.Conn)
			_, health := client.Health(ctx, &agentpb.HealthRequest{})
			_, cancel := client.Cancel(ctx, byExecution("x"))
			stream, err := client.Execute(ctx, agenttest.Request(t, "x", "echo", empty{}))
			if err == nil {
				_, err = stream.Recv()
			}
			for _, err := range []error{health, cancel, err} {
				if status.Code(err) != codes.Unauthenticated {
					t.Errorf("got %v, want UNAUTHENTICATED", err)
				}
			}
		})
	}
}

func TestStockHealthNeedsNoTokenAndFollowsHealth(t *testing.T) {
	ready := make(chan struct{})
	a := newAgent(t, nil)
	a.OnStart(func(ctx context.Context) error { <-ready; return nil })
	r := agenttest.Start(t, a)
	probe := healthpb.NewHealthClient(r.Conn)
	check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := probe.Check(agenttest.Context(t), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || got.GetStatus() != want {
			t.Errorf("%q: got %v, %v, want %v", service, got, err, want)
		}
	}
	check("", healthpb.HealthCheckResponse_NOT_SERVING)
	wantCode(t, r.Execute(t, agenttest.Request(t, "early", "echo", empty{})), "OVERLOADED", true)
	close(ready)
	r.AwaitServing(t)
	check("", healthpb.HealthCheckResponse_SERVING)
	check("noa.agent.v1.AgentService", healthpb.HealthCheckResponse_SERVING)
	if out := r.Execute(t, agenttest.Request(t, "early", "echo", empty{})); out[0].GetAccepted().GetJoined() ||
		agenttest.Failure(t, out) != nil {
		t.Errorf("the refusal was remembered: %v", out)
	}
	_, err := probe.Check(agenttest.Context(t), &healthpb.HealthCheckRequest{Service: "other"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("got %v for another service, want NOT_FOUND", err)
	}
}

func TestFailedStartIsNotServingAndSaysWhy(t *testing.T) {
	a := newAgent(t, nil)
	a.OnStart(func(context.Context) error { return errors.New("no model at /x") })
	r := agenttest.Start(t, a)
	for ctx := agenttest.Context(t); ; {
		h, err := r.Client.Health(ctx, &agentpb.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_NOT_SERVING {
			if h.GetMessage() != "no model at /x" {
				t.Errorf("got message %q", h.GetMessage())
			}
			f := wantCode(t, r.Execute(t, agenttest.Request(t, "early", "echo", empty{})), "OVERLOADED", true)
			if !strings.Contains(f.GetMessage(), "no model at /x") {
				t.Errorf("got %v", f)
			}
			return
		}
	}
}

func TestHealthTellsTheManifest(t *testing.T) {
	r := start(t, newGate(true))
	h, err := r.Client.Health(agenttest.Context(t), &agentpb.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m := h.GetManifest()
	if m.GetName() != "test" || m.GetLanguage() != "go" || m.GetVersion() != "1.2.3" || m.GetProtocolVersions()[0] != 1 {
		t.Errorf("got %v", m)
	}
	if len(m.GetActions()) != 2 || m.GetActions()[0].GetName() != "echo" || !m.GetActions()[0].GetIdempotent() {
		t.Errorf("got actions %v", m.GetActions())
	}
	if m.GetActions()[0].GetInputSchema().AsMap()["type"] != "object" {
		t.Errorf("got schema %v", m.GetActions()[0].GetInputSchema())
	}
}

func TestMissingIdsAreInvalidArguments(t *testing.T) {
	r := start(t, nil)
	for name, change := range map[string]func(*agentpb.ExecuteRequest){
		"execution_id":      func(q *agentpb.ExecuteRequest) { q.ExecutionId = "" },
		"run_id":            func(q *agentpb.ExecuteRequest) { q.RunId = "" },
		"action":            func(q *agentpb.ExecuteRequest) { q.Action = "" },
		"long execution_id": func(q *agentpb.ExecuteRequest) { q.ExecutionId = strings.Repeat("x", 513) },
	} {
		t.Run(name, func(t *testing.T) {
			req := agenttest.Request(t, "x", "echo", empty{})
			change(req)
			_, err := execute(t, r, req).Recv()
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, want INVALID_ARGUMENT", err)
			}
		})
	}
	for _, req := range []*agentpb.CancelRequest{{}, byRun(""), byExecution("")} {
		if _, err := r.Client.Cancel(agenttest.Context(t), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("Cancel(%v): got %v, want INVALID_ARGUMENT", req, err)
		}
	}
}

func TestMessagesAboveFourMebibytesAreRefused(t *testing.T) {
	r := start(t, nil)
	for size, want := range map[int]codes.Code{4<<20 - 1000: codes.OK, 4<<20 + 1: codes.ResourceExhausted} {
		req := agenttest.Request(t, fmt.Sprint(size), "echo", strings.Repeat("x", size))
		if _, err := execute(t, r, req).Recv(); status.Code(err) != want {
			t.Errorf("%d bytes: got %v, want %v", size, err, want)
		}
	}
}

func TestEchoGivesBackItsInput(t *testing.T) {
	r := start(t, nil)
	out := r.Execute(t, agenttest.Request(t, "e", "echo", object{"a": []int{1, 2}, "big": uint64(1) << 63}))
	if got := string(out[len(out)-1].GetCompleted().GetOutput().GetInline()); got != `{"echo":{"a":[1,2],"big":9223372036854775808}}` {
		t.Errorf("got %s", got)
	}
	if out[len(out)-1].GetCompleted().GetMetrics().GetWallTime() == nil {
		t.Error("no wall time")
	}
	unset := agenttest.Request(t, "u", "echo", empty{})
	unset.Input = nil
	if got := agenttest.Output[object](t, r.Execute(t, unset)); len(got["echo"].(object)) != 0 {
		t.Errorf("got %v for no input", got)
	}
	fail := object{"fail": object{"code": "OWN", "message": "as asked", "retryable": true}}
	if f := wantCode(t, r.Execute(t, agenttest.Request(t, "f", "echo", fail)), "OWN", true); f.GetMessage() != "as asked" {
		t.Errorf("got %v", f)
	}
}

func TestSecondExecuteJoinsWhatGoesOn(t *testing.T) {
	g := newGate(true)
	r := start(t, g)
	req := agenttest.Request(t, "j", "gate", empty{})
	first := execute(t, r, req)
	<-g.started
	second := execute(t, r, req)
	if m, err := second.Recv(); err != nil || !m.GetAccepted().GetJoined() {
		t.Fatalf("got %v, %v, want accepted(joined)", m, err)
	}
	close(g.open)
	a, b := agenttest.Drain(t, first), agenttest.Drain(t, second)
	if a[0].GetAccepted().GetJoined() || !proto.Equal(a[len(a)-1], b[len(b)-1]) {
		t.Errorf("got %v and %v", a, b)
	}
	if len(g.started) != 0 {
		t.Error("the work was done twice")
	}
}

func TestResultIsRepeated(t *testing.T) {
	g := newGate(true)
	close(g.open)
	r := start(t, g)
	req := agenttest.Request(t, "r", "gate", empty{})
	first, again := r.Execute(t, req), r.Execute(t, req)
	if len(again) != 2 || !again[0].GetAccepted().GetJoined() || !proto.Equal(first[len(first)-1], again[1]) {
		t.Errorf("got %v, then %v", first, again)
	}
	if len(g.started) != 1 {
		t.Errorf("the work was done %d times", len(g.started))
	}
}

func TestCancelBeforeDuringAndAfter(t *testing.T) {
	g := newGate(true)
	r := start(t, g)
	if c := cancel(t, r, byExecution("c")); c.GetOutcome() != unknown {
		t.Errorf("before: got %v", c)
	}
	stream := execute(t, r, agenttest.Request(t, "c", "gate", empty{}))
	<-g.started
	if c := cancel(t, r, byExecution("c")); c.GetOutcome() != cancelled || c.GetCancelled() != 1 {
		t.Errorf("during: got %v", c)
	}
	wantCode(t, agenttest.Drain(t, stream), "CANCELLED", false)
	if c := cancel(t, r, byExecution("c")); c.GetOutcome() != finished || c.GetCancelled() != 0 {
		t.Errorf("after: got %v", c)
	}
	wantCode(t, r.Execute(t, agenttest.Request(t, "c", "gate", empty{})), "CANCELLED", false)
}

func TestSecondCancelFindsTheWorkToldAlready(t *testing.T) {
	g := newGate(false)
	r := start(t, g)
	defer close(g.open)
	stream := execute(t, r, agenttest.Request(t, "c", "gate", empty{}))
	<-g.started
	for i, want := range []uint32{1, 0} {
		if c := cancel(t, r, byExecution("c")); c.GetOutcome() != cancelled || c.GetCancelled() != want {
			t.Errorf("cancel %d: got %v", i, c)
		}
	}
	// The run's cancel finds it too, and waits for its end.
	run := byRun("run-c")
	run.Grace = durationpb.New(200 * time.Millisecond)
	if c := cancel(t, r, run); c.GetOutcome() != cancelled || c.GetCancelled() != 0 {
		t.Errorf("the run: got %v", c)
	}
	wantCode(t, agenttest.Drain(t, stream), "CANCELLED", false)
	if c := cancel(t, r, byExecution("c")); c.GetOutcome() != finished || c.GetCancelled() != 0 {
		t.Errorf("after: got %v", c)
	}
	if c := cancel(t, r, run); c.GetOutcome() != unknown {
		t.Errorf("the run, after: got %v", c)
	}
}

func TestWorkThatIgnoresCancelIsAbandonedAfterTheGrace(t *testing.T) {
	g := newGate(false)
	r := start(t, g)
	defer close(g.open)
	stream := execute(t, r, agenttest.Request(t, "i", "gate", empty{}))
	<-g.started
	req := byExecution("i")
	req.Grace = durationpb.New(50 * time.Millisecond)
	begun := time.Now()
	cancel(t, r, req)
	wantCode(t, agenttest.Drain(t, stream), "CANCELLED", false)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestCancelOfARunReleasesIt(t *testing.T) {
	g := newGate(true)
	a := newAgent(t, g)
	held := map[string]int{"run-a": 2}
	a.OnRelease(func(_ context.Context, runID string) (int, error) {
		n := held[runID]
		delete(held, runID)
		return n, nil
	})
	r := agenttest.Start(t, a).AwaitServing(t)
	stream := execute(t, r, agenttest.Request(t, "a", "gate", empty{}))
	<-g.started
	if c := cancel(t, r, byRun("run-a")); c.GetOutcome() != cancelled || c.GetCancelled() != 3 {
		t.Errorf("got %v", c)
	}
	wantCode(t, agenttest.Drain(t, stream), "CANCELLED", false)
	for _, id := range []string{"run-a", "never-seen"} {
		if c := cancel(t, r, byRun(id)); c.GetOutcome() != unknown {
			t.Errorf("%s: got %v", id, c)
		}
	}
}

func TestFailedReleaseCountsAsReleased(t *testing.T) {
	a := newAgent(t, nil)
	a.OnRelease(func(_ context.Context, runID string) (int, error) {
		switch runID {
		case "panics":
			panic("busy")
		case "fails":
			return 0, errors.New("busy")
		case "half":
			return 3, errors.New("one is left")
		}
		return 0, nil
	})
	r := agenttest.Start(t, a).AwaitServing(t)
	for run, want := range map[string]uint32{"panics": 1, "fails": 1, "half": 3} {
		if c := cancel(t, r, byRun(run)); c.GetOutcome() != cancelled || c.GetCancelled() != want {
			t.Errorf("%s: got %v, want %d", run, c, want)
		}
	}
	if c := cancel(t, r, byRun("other")); c.GetOutcome() != unknown {
		t.Errorf("got %v", c)
	}
}

func TestReleaseThatExceedsTheGraceIsAnsweredAndGoesOn(t *testing.T) {
	a := newAgent(t, nil)
	hang, released := make(chan struct{}), make(chan struct{})
	a.OnRelease(func(context.Context, string) (int, error) {
		<-hang
		close(released)
		return 1, nil
	})
	r := agenttest.Start(t, a).AwaitServing(t)
	req := byRun("x")
	req.Grace = durationpb.New(100 * time.Millisecond)
	if c := cancel(t, r, req); c.GetOutcome() != cancelled || c.GetCancelled() != 1 {
		t.Errorf("got %v", c)
	}
	close(hang)
	<-released
}

func TestDeadline(t *testing.T) {
	for name, obeys := range map[string]bool{"obeyed": true, "ignored": false} {
		t.Run(name, func(t *testing.T) {
			g := newGate(obeys)
			r := start(t, g)
			defer close(g.open)
			req := agenttest.Request(t, "d", "gate", empty{})
			req.Deadline = timestamppb.New(time.Now().Add(80 * time.Millisecond))
			wantCode(t, r.Execute(t, req), "DEADLINE_EXCEEDED", true)
		})
	}
	t.Run("passed before", func(t *testing.T) {
		g := newGate(true)
		r := start(t, g)
		req := agenttest.Request(t, "d", "gate", empty{})
		req.Deadline = timestamppb.New(time.Now().Add(-time.Hour))
		wantCode(t, r.Execute(t, req), "DEADLINE_EXCEEDED", true)
		if len(g.started) != 0 {
			t.Error("the work was started")
		}
	})
	t.Run("far away", func(t *testing.T) {
		req := agenttest.Request(t, "d", "echo", empty{})
		req.Deadline = &timestamppb.Timestamp{Seconds: 253402300799}
		if f := agenttest.Failure(t, start(t, nil).Execute(t, req)); f != nil {
			t.Errorf("got %v", f)
		}
	})
}

func TestHeartbeatsComeWhenThereIsNothingElseToSay(t *testing.T) {
	g := newGate(true)
	r := start(t, g)
	req := agenttest.Request(t, "h", "gate", empty{})
	req.HeartbeatInterval = durationpb.New(50 * time.Millisecond)
	stream := execute(t, r, req)
	for i := range 4 {
		m, err := stream.Recv()
		if err != nil || (i == 0) != (m.GetAccepted() != nil) || (i > 0) != (m.GetHeartbeat() != nil) {
			t.Fatalf("message %d: got %v, %v", i, m, err)
		}
	}
	close(g.open)
	agenttest.Drain(t, stream)
}

func TestOverload(t *testing.T) {
	g := newGate(true)
	a := newAgent(t, g).WithCapacity(1)
	r := agenttest.Start(t, a).AwaitServing(t)
	first := execute(t, r, agenttest.Request(t, "1", "gate", empty{}))
	<-g.started
	f := wantCode(t, r.Execute(t, agenttest.Request(t, "2", "gate", empty{})), "OVERLOADED", true)
	if f.GetRetryAfter().AsDuration() <= 0 {
		t.Errorf("no retry_after in %v", f)
	}
	h, err := r.Client.Health(agenttest.Context(t), &agentpb.HealthRequest{})
	if err != nil || h.GetCapacity() != 1 || h.GetInFlight() != 1 {
		t.Errorf("got %v, %v", h, err)
	}
	close(g.open)
	agenttest.Drain(t, first)
	if out := r.Execute(t, agenttest.Request(t, "2", "gate", empty{})); out[0].GetAccepted().GetJoined() {
		t.Error("a refusal was remembered as the result")
	}
}

func TestClientThatHangsUpDoesNotEndTheWork(t *testing.T) {
	g := newGate(true)
	r := start(t, g)
	req := agenttest.Request(t, "g", "gate", empty{})
	ctx, hangUp := context.WithCancel(agenttest.Context(t))
	stream, err := r.Client.Execute(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	<-g.started
	hangUp()
	for err == nil {
		_, err = stream.Recv()
	}
	close(g.open)
	if out := r.Execute(t, req); !out[0].GetAccepted().GetJoined() || agenttest.Failure(t, out) != nil {
		t.Errorf("got %v", out)
	}
}

func TestDrain(t *testing.T) {
	g := newGate(true)
	r := start(t, g)
	going := execute(t, r, agenttest.Request(t, "1", "gate", empty{}))
	<-g.started
	r.Signals <- sigint
	r.Signals <- sigterm
	for ctx := agenttest.Context(t); ; {
		h, err := r.Client.Health(ctx, &agentpb.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_DRAINING {
			break
		}
	}
	wantCode(t, r.Execute(t, agenttest.Request(t, "2", "gate", empty{})), "OVERLOADED", true)
	close(g.open)
	if f := agenttest.Failure(t, agenttest.Drain(t, going)); f != nil {
		t.Errorf("got %v", f)
	}
	if err := <-r.Ended; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

func TestSecondSigtermEndsAtOnce(t *testing.T) {
	g := newGate(false)
	r := start(t, g)
	execute(t, r, agenttest.Request(t, "1", "gate", empty{}))
	<-g.started
	r.Signals <- sigterm
	r.Signals <- sigterm
	err := <-r.Ended
	if own, ok := errors.AsType[*noaagent.ExitError](err); !ok || own.Status != 143 {
		t.Errorf("Serve returned %v", err)
	}
}

func TestEndOfStdinReleasesEveryRunAndEnds(t *testing.T) {
	g := newGate(false)
	a := newAgent(t, g)
	released := make(chan string, 1)
	a.OnRelease(func(_ context.Context, runID string) (int, error) { released <- runID; return 1, nil })
	r := agenttest.Start(t, a).AwaitServing(t)
	stream := execute(t, r, agenttest.Request(t, "1", "gate", empty{}))
	<-g.started
	begun := time.Now()
	_ = r.Stdin.Close()
	if err := <-r.Ended; err != nil || time.Since(begun) > 2*time.Second {
		t.Errorf("Serve returned %v after %v", err, time.Since(begun))
	}
	if id := <-released; id != "run-1" {
		t.Errorf("released %q", id)
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			t.Error("the stream ended well")
			return
		} else if err != nil {
			return
		}
	}
}
