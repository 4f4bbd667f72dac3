package noaagent

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// Largest values that one message carries; the contract's.
const (
	maxInline          = 256 << 10
	maxProgressMessage = 1 << 10
	maxLogMessage      = 16 << 10
)

// Execution is one attempt of a task, as its action sees it. Its methods may be called from any goroutine and never
// wait for the client: what it reads too slowly is dropped, oldest first. After the action has returned they have
// no effect.
type Execution struct {
	// ID names this attempt; unique over all runs.
	ID string
	// IdempotencyKey is the same for all attempts of a task, so that an effect outside can be made once.
	IdempotencyKey string
	// RunID is the run that the task belongs to; OnRelease handlers are called with it.
	RunID string
	// Workflow, Stage and Task say where in the run this is.
	Workflow, Stage, Task string
	// Attempt counts from 1.
	Attempt uint32
	// Action is the name that was asked for.
	Action string
	// Traceparent and Tracestate are the W3C trace context, or empty.
	Traceparent, Tracestate string

	agent *Agent
	task  *task
	req   *agentpb.ExecuteRequest

	mu       sync.Mutex
	fraction float64
	values   map[string]float64
}

func newExecution(a *Agent, t *task, req *agentpb.ExecuteRequest) *Execution {
	return &Execution{
		ID: req.GetExecutionId(), IdempotencyKey: req.GetIdempotencyKey(), RunID: req.GetRunId(),
		Workflow: req.GetWorkflow(), Stage: req.GetStage(), Task: req.GetTask(),
		Attempt: req.GetAttempt(), Action: req.GetAction(),
		Traceparent: req.GetTraceparent(), Tracestate: req.GetTracestate(),
		agent: a, task: t, req: req,
	}
}

// Progress reports that the part fraction, 0 to 1, is done, and what is being done. A negative fraction means that
// the amount of work is not known. A fraction below an earlier one is raised to it.
func (x *Execution) Progress(fraction float64, message string) {
	x.progress(&agentpb.Progress{Fraction: x.rising(fraction), Message: cut(message, maxProgressMessage)})
}

// ProgressUnits reports that done of total units are done; unit is a plural such as "files".
func (x *Execution) ProgressUnits(done, total uint64, unit, message string) {
	p := &agentpb.Progress{Done: &done, Unit: cut(unit, maxProgressMessage), Message: cut(message, maxProgressMessage)}
	if total > 0 {
		p.Total = &total
		p.Fraction = x.rising(float64(done) / float64(total))
	}
	x.progress(p)
}

func (x *Execution) progress(p *agentpb.Progress) {
	x.task.publish(&agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Progress{Progress: p}})
}

func (x *Execution) rising(fraction float64) *float64 {
	if fraction < 0 || math.IsNaN(fraction) {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fraction = max(x.fraction, min(fraction, 1))
	f := x.fraction
	return &f
}

// Log adds a line to the run's log. It is cut at 16 KiB.
func (x *Execution) Log(level slog.Level, message string) {
	line := &agentpb.Log{
		Level: logLevel(level), Message: cut(strings.TrimRight(message, "\r\n"), maxLogMessage), Time: timestamppb.Now(),
	}
	x.task.publish(&agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Log{Log: line}})
}

func logLevel(level slog.Level) agentpb.LogLevel {
	switch {
	case level < slog.LevelInfo:
		return agentpb.LogLevel_LOG_LEVEL_DEBUG
	case level < slog.LevelWarn:
		return agentpb.LogLevel_LOG_LEVEL_INFO
	case level < slog.LevelError:
		return agentpb.LogLevel_LOG_LEVEL_WARNING
	default:
		return agentpb.LogLevel_LOG_LEVEL_ERROR
	}
}

// Output sends a piece of output while it is made, in several messages if it is above 256 KiB. An empty
// contentType means text. data may be used again when Output returns.
func (x *Execution) Output(contentType string, data []byte) {
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), maxInline)
		chunk := &agentpb.OutputChunk{ContentType: cut(contentType, 256), Data: bytes.Clone(data[:n])}
		x.task.publish(&agentpb.ExecuteResponse{Event: &agentpb.ExecuteResponse_Output{Output: chunk}})
		data = data[n:]
	}
}

// Metric sets a figure of the action's own, such as "files_per_s", that goes with the result.
func (x *Execution) Metric(name string, value float64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.values == nil {
		x.values = map[string]float64{}
	}
	x.values[cut(name, 256)] = value
}

// Deadline is when the execution must have ended; ok is false when there is none. ctx is cancelled then.
func (x *Execution) Deadline() (at time.Time, ok bool) { return x.task.ctx.Deadline() }

// Artifacts is the artifact store as far as this execution may write to it.
func (x *Execution) Artifacts() Artifacts {
	return Artifacts{prefix: x.req.GetArtifactPrefix(), ctx: x.task.ctx}
}

// OutputDir is the folder for files that the run produces for a person. It exists when OutputDir returns. When the
// engine names none it is a temporary folder that is removed with the run.
func (x *Execution) OutputDir() (string, error) {
	if prefix := x.req.GetOutputPrefix(); prefix != "" {
		return makeDir(prefix)
	}
	return x.agent.dirs.of(x.RunID)
}

// perform does what the request asks for. It runs on the task's own goroutine.
func (a *Agent) perform(t *task, req *agentpb.ExecuteRequest) {
	x := newExecution(a, t, req)
	t.run(func() (*agentpb.Payload, map[string]float64, error) {
		output, err := a.work(t.ctx, x)
		if err != nil {
			return nil, nil, err
		}
		payload, err := payloadOf(output, x.Artifacts())
		x.mu.Lock()
		defer x.mu.Unlock()
		values := x.values
		x.values = nil // what the action left running must not write to what is being sent
		return payload, values, err
	})
}

func (a *Agent) work(ctx context.Context, x *Execution) (document, error) {
	act, known := a.actions[x.Action]
	if !known {
		return document{}, Failf(CodeUnknownAction, "action %s is not known. Known: %s",
			quoted(x.Action), strings.Join(a.actionNames(), ", "))
	}
	raw, err := readInput(x.req.GetInput())
	if err != nil {
		return document{}, err
	}
	return act.perform(ctx, x, raw)
}
