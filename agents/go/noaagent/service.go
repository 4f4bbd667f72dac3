package noaagent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

const (
	maxExecutionID        = 512
	defaultHeartbeat      = 5 * time.Second
	shortestHeartbeat     = 10 * time.Millisecond
	defaultGrace          = 5 * time.Second
	obedientWorkReturnsIn = 250 * time.Millisecond
)

// service answers the three calls of the contract. It owns how they look on the wire and nothing else.
type service struct {
	agentpb.UnimplementedAgentServiceServer
	agent *Agent
	base  context.Context // of all work; ends with the agent
}

func (s *service) Execute(req *agentpb.ExecuteRequest, stream grpc.ServerStreamingServer[agentpb.ExecuteResponse]) error {
	if err := checkRequest(req); err != nil {
		return err
	}
	closed := ""
	if now, why := s.agent.health(); now != agentpb.HealthStatus_HEALTH_STATUS_SERVING {
		closed = "the agent cannot take work: " + why
	}
	at := s.agent.table.admit(s.base, req, s.agent.capacity, closed)
	if at.task != nil {
		defer at.task.unfollow(at.feed)
		if !at.joined {
			go s.agent.perform(at.task, req)
		}
	}
	if err := stream.Send(accepted(at.joined)); err != nil {
		return err
	}
	switch {
	case at.refusal != nil:
		return stream.Send(failed(at.refusal))
	case at.terminal != nil:
		return stream.Send(at.terminal)
	}
	return relay(stream, at.task, at.feed, heartbeatOf(req))
}

func checkRequest(req *agentpb.ExecuteRequest) error {
	if len(req.GetExecutionId()) > maxExecutionID {
		return status.Errorf(codes.InvalidArgument, "execution_id has more than %d bytes", maxExecutionID)
	}
	for _, field := range []struct{ name, value string }{
		{"execution_id", req.GetExecutionId()}, {"run_id", req.GetRunId()}, {"action", req.GetAction()},
	} {
		if field.value == "" {
			return status.Errorf(codes.InvalidArgument, "%s is required", field.name)
		}
	}
	return nil
}

// heartbeatOf is how long a stream may be silent. A message must arrive within the interval, so it leaves earlier.
func heartbeatOf(req *agentpb.ExecuteRequest) time.Duration {
	interval := req.GetHeartbeatInterval().AsDuration()
	if interval <= 0 {
		interval = defaultHeartbeat
	}
	return max(interval/5*4, shortestHeartbeat)
}

// relay sends what happens in a task to one client, up to its end or until the client is gone.
func relay(stream grpc.ServerStreamingServer[agentpb.ExecuteResponse], t *task, f *feed, silence time.Duration) error {
	beat := time.NewTimer(silence)
	defer beat.Stop()
	for {
		for m := f.pop(); m != nil; m = f.pop() {
			if err := stream.Send(m); err != nil {
				return err
			}
			beat.Reset(silence)
		}
		select {
		case <-f.wake:
		case <-t.ended:
			for m := f.pop(); m != nil; m = f.pop() {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
			return stream.Send(t.terminal)
		case <-beat.C:
			if err := stream.Send(heartbeat); err != nil {
				return err
			}
			beat.Reset(silence)
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

var heartbeat = &agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Heartbeat{Heartbeat: &agentpb.Heartbeat{}}}

func (s *service) Health(context.Context, *agentpb.HealthRequest) (*agentpb.HealthResponse, error) {
	now, message := s.agent.health()
	return &agentpb.HealthResponse{
		Status: now, Message: message, Manifest: s.agent.manifest(),
		Capacity: uint32(s.agent.capacity), InFlight: uint32(s.agent.table.inFlight()),
	}, nil
}

func (s *service) Cancel(ctx context.Context, req *agentpb.CancelRequest) (*agentpb.CancelResponse, error) {
	grace := defaultGrace
	if req.GetGrace() != nil {
		grace = min(max(req.GetGrace().AsDuration(), 0), maxWait)
	}
	verdict := Fail{Code: CodeCancelled, Message: "the execution was cancelled"}
	if why := req.GetReason(); why != "" {
		verdict.Message = fmt.Sprintf("the execution was cancelled: %s", why)
	}
	switch target := req.GetTarget().(type) {
	case *agentpb.CancelRequest_ExecutionId:
		if target.ExecutionId != "" {
			return s.agent.cancelExecution(ctx, target.ExecutionId, verdict, grace), nil
		}
	case *agentpb.CancelRequest_RunId:
		if target.RunId != "" {
			// Not ctx: a client that hangs up does not stop a clean-up half way.
			return s.agent.releaseRun(context.WithoutCancel(ctx), target.RunId, verdict, grace), nil
		}
	}
	return nil, status.Error(codes.InvalidArgument, "execution_id or run_id is required")
}

func (a *Agent) cancelExecution(ctx context.Context, id string, verdict Fail, grace time.Duration) *agentpb.CancelResponse {
	t, ended := a.table.find(id)
	if t == nil && !ended {
		return &agentpb.CancelResponse{Outcome: agentpb.CancelOutcome_CANCEL_OUTCOME_UNKNOWN}
	}
	if t != nil {
		if going, first := t.condemn(verdict, grace); going {
			slog.Info("execution cancelled", "execution", id, "reason", verdict.Message)
			// Work that obeys has ended when the answer arrives, so that a repeat finds nothing left.
			wait(ctx, t.ended, min(grace, obedientWorkReturnsIn))
			return &agentpb.CancelResponse{
				Outcome: agentpb.CancelOutcome_CANCEL_OUTCOME_CANCELLED, Cancelled: count(first),
			}
		}
	}
	return &agentpb.CancelResponse{Outcome: agentpb.CancelOutcome_CANCEL_OUTCOME_ALREADY_FINISHED}
}

func count(one bool) uint32 {
	if one {
		return 1
	}
	return 0
}

// wait returns when done is closed, after d, or when ctx ends.
func wait(ctx context.Context, done <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}
