package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/noa-workflow/noa/agents/go/internal/services"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

// TestMain is the agent instead of the tests when an engine seems to have launched it.
func TestMain(m *testing.M) {
	if os.Getenv("NOA_AGENT_LISTEN") != "" {
		main()
	}
	os.Exit(m.Run())
}

// The contract's 2 s, and as much again for a machine that has other things to do.
const endsWithin = 4 * time.Second

type launched struct {
	*exec.Cmd
	stdin  io.Closer
	client agentpb.AgentServiceClient
}

func launch(t *testing.T) *launched {
	t.Helper()
	dir, err := os.MkdirTemp("", "noa-")
	if err != nil {
		t.Fatal(err)
	}
	address := "unix:" + filepath.Join(dir, "a.sock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NOA_AGENT_LISTEN="+address, "NOA_AGENT_TOKEN="+agenttest.Token, "NOA_AGENT_PROTOCOL=1",
		"GORACE=atexit_sleep_ms=0") // the race detector would sleep for a second at the end
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.RemoveAll(dir) })
	l := &launched{cmd, stdin, agenttest.WithToken(agenttest.Dial(t, address))}
	for ctx := agenttest.Context(t); ; {
		h, err := l.client.Health(ctx, &agentpb.HealthRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_SERVING {
			return l
		}
	}
}

// stubborn starts a service that does not mind SIGTERM and returns its pid.
func (l *launched) stubborn(t *testing.T) int {
	t.Helper()
	req := agenttest.Request(t, "s", "service_startup", map[string]any{"services": []any{map[string]any{
		"name": "stubborn", "command": []string{"sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"},
	}}})
	stream, err := l.client.Execute(agenttest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return agenttest.Output[services.Output](t, agenttest.Drain(t, stream)).Services["stubborn"].PID
}

func wantGone(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestHoweverTheAgentEndsItsServicesEndToo(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(*launched)
		status int
	}{
		{"stdin ends", func(l *launched) { _ = l.stdin.Close() }, 0},
		{"SIGTERM", func(l *launched) { _ = l.Process.Signal(syscall.SIGTERM) }, 0},
		{"SIGINT, then stdin ends", func(l *launched) { _ = l.Process.Signal(syscall.SIGINT); _ = l.stdin.Close() }, 0},
		{"SIGKILL", func(l *launched) { _ = l.Process.Kill() }, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := launch(t)
			pid := l.stubborn(t)
			begun := time.Now()
			c.end(l)
			status := 0
			if e, ok := errors.AsType[*exec.ExitError](l.Wait()); ok {
				status = e.ExitCode()
			}
			if status != c.status || time.Since(begun) > endsWithin {
				t.Errorf("status %d after %v", status, time.Since(begun))
			}
			wantGone(t, pid)
		})
	}
}

func TestSecondSigtermEndsTheProcess(t *testing.T) {
	l := launch(t)
	pid := l.stubborn(t)
	stream, err := l.client.Execute(agenttest.Context(t), agenttest.Request(t, "e", "echo", map[string]any{"sleep_s": 60}))
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Process.Signal(syscall.SIGTERM)
	for ctx := agenttest.Context(t); ; {
		h, err := l.client.Health(ctx, &agentpb.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_DRAINING {
			break
		}
	}
	_ = l.Process.Signal(syscall.SIGTERM)
	if e, ok := errors.AsType[*exec.ExitError](l.Wait()); !ok || e.ExitCode() != 143 {
		t.Errorf("ended with %v", e)
	}
	wantGone(t, pid)
}
