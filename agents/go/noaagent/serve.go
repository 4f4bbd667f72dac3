package noaagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

const (
	maxMessage       = 4 << 20
	shortestPing     = 5 * time.Second // clients may ping every 10 s; the rest is for jitter
	workEnds         = 250 * time.Millisecond
	releaseOnEnd     = time.Second
	flushResults     = 700 * time.Millisecond
	forgetEveryOften = 5 * time.Second
)

// Serve runs the agent as the engine launched it, by environment, until it is drained (nil), the engine is gone or
// ctx ends (nil), or something is wrong. Give what it returns to [Exit]. With NOA_AGENT_CONFORMANCE=1 it adds the
// action "echo" (see [Agent.WithEcho]) to an agent that has none.
func (a *Agent) Serve(ctx context.Context) error {
	if _, own := a.actions[echoName]; !own && os.Getenv(EnvConformance) == "1" {
		a.WithEcho()
	}
	signals := make(chan os.Signal, 8)
	// SIGINT is caught and dropped, not ignored by the system: child processes would inherit that. SIGPIPE too: a
	// closed stderr must not end the agent before it has let go of what it holds.
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPIPE)
	defer signal.Stop(signals)
	l, err := LaunchFromEnv()
	if err != nil {
		return err
	}
	l.Signals = signals
	return a.ServeLaunch(ctx, l)
}

// Main is all that the main function of an agent has to do: it serves as the engine launched the agent and then ends
// the process with the right status.
func (a *Agent) Main() { Exit(a.Serve(context.Background())) }

// Exit ends the process with the status that fits what Serve returned, after one line to stderr if it is an error.
func Exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, err)
	if own, ok := errors.AsType[*ExitError](err); ok {
		os.Exit(own.Status)
	}
	os.Exit(exitFailed)
}

// ServeLaunch is Serve with a launch that the caller made, for tests and for agents inside another program.
func (a *Agent) ServeLaunch(ctx context.Context, l Launch) error {
	listener, err := listen(l.Listen)
	if err != nil {
		return err
	}
	base, end := context.WithCancel(ctx)
	defer end()
	server := a.newServer(base, l.Token)
	broken := make(chan error, 1)
	go func() { broken <- server.Serve(listener) }()
	go a.table.forgetEvery(base, forgetEveryOften)
	go a.keepHeadroom(base)
	go a.start(base)
	err = a.live(ctx, l, broken)
	if errors.Is(err, errDrained) {
		a.releaseAll(releaseOnEnd)
		stopSoftly(server)
		return nil
	}
	end()
	a.table.awaitWork(workEnds) // work that obeys takes its temporary files away
	a.releaseAll(endWithin(err))
	server.Stop()
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

var (
	errDrained = errors.New("drained")
	errGone    = errors.New("the engine is gone")
)

// live waits for the reason to end.
func (a *Agent) live(ctx context.Context, l Launch, broken <-chan error) error {
	gone := stdinEnd(l.Stdin)
	var drained <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return errGone
		case <-gone:
			slog.Info("stdin has ended: the engine is gone")
			return errGone
		case <-drained:
			return errDrained
		case err := <-broken:
			return fmt.Errorf("listen: %w", err)
		case s := <-l.Signals:
			if s != syscall.SIGTERM {
				continue
			}
			if drained != nil {
				return &ExitError{Status: exitTerminated, Line: "ended at once by a second SIGTERM"}
			}
			a.setStatus(agentpb.HealthStatus_HEALTH_STATUS_DRAINING, "the agent is draining")
			drained = a.table.drain()
		}
	}
}

// endWithin is how long letting go may take. A second SIGTERM leaves no time to ask nicely.
func endWithin(why error) time.Duration {
	if errors.Is(why, errGone) {
		return releaseOnEnd
	}
	return 0
}

func (a *Agent) newServer(base context.Context, token string) *grpc.Server {
	guard := newTokenGuard(token)
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: shortestPing, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(guard.unary),
		grpc.StreamInterceptor(guard.stream),
	)
	agentpb.RegisterAgentServiceServer(server, &service{agent: a, base: base})
	healthpb.RegisterHealthServer(server, a.probe)
	return server
}

// start prepares the agent, which answers Health meanwhile.
func (a *Agent) start(ctx context.Context) {
	for _, prepare := range a.onStart {
		if err := guarded(ctx, prepare); err != nil {
			slog.Error("the agent cannot work", "error", err)
			a.setStatus(agentpb.HealthStatus_HEALTH_STATUS_NOT_SERVING, cut(err.Error(), maxProgressMessage))
			return
		}
	}
	a.setStatus(agentpb.HealthStatus_HEALTH_STATUS_SERVING, "")
}

// guarded turns a panic into an error: an author's mistake must not end the agent for all runs.
func guarded(ctx context.Context, do func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	return do(ctx)
}

// stopSoftly lets the streams carry their last messages away, but waits for no client that does not read.
func stopSoftly(server *grpc.Server) {
	late := time.AfterFunc(flushResults, server.Stop)
	defer late.Stop()
	server.GracefulStop()
}

// stdinEnd closes the channel it returns when stdin has ended.
func stdinEnd(stdin io.Reader) <-chan struct{} {
	if stdin == nil {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, stdin)
	}()
	return ended
}
