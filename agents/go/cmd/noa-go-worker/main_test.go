package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

// TestMain is the worker instead of the tests when an engine seems to have launched it.
func TestMain(m *testing.M) {
	if os.Getenv("NOA_AGENT_LISTEN") != "" {
		main()
	}
	os.Exit(m.Run())
}

func worker(t *testing.T, args ...string) (cmd *exec.Cmd, stdin io.Closer, address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "noa-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	address = "unix:" + filepath.Join(dir, "a.sock")
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "NOA_AGENT_LISTEN="+address, "NOA_AGENT_TOKEN="+agenttest.Token, "NOA_AGENT_PROTOCOL=1",
		"GORACE=atexit_sleep_ms=0") // the race detector would sleep for a second at the end
	stdin, err = cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stdin, address
}

func TestWorkerTakesAsMuchAsItIsToldAndLeavesNothingWhenItsEngineIsGone(t *testing.T) {
	cmd, stdin, address := worker(t, "--capacity", "3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	client, ctx := agenttest.WithToken(agenttest.Dial(t, address)), agenttest.Context(t)
	for serving := false; !serving; {
		h, err := client.Health(ctx, &agentpb.HealthRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		serving = h.GetStatus() == agentpb.HealthStatus_HEALTH_STATUS_SERVING
		if h.GetCapacity() != 3 {
			t.Fatalf("got capacity %d", h.GetCapacity())
		}
	}
	large, dir := filepath.Join(t.TempDir(), "large"), t.TempDir()
	if err := errors.Join(os.WriteFile(large, nil, 0o644), os.Truncate(large, 1<<40)); err != nil {
		t.Skipf("no large sparse file: %v", err)
	}
	_, err := client.Execute(ctx, agenttest.Request(t, "c", "compress_files", map[string]any{
		"files": []any{map[string]any{"path": large}}, "output_dir": dir,
	}))
	if err != nil {
		t.Fatal(err)
	}
	left := func() []string { names, _ := filepath.Glob(filepath.Join(dir, ".*")); return names }
	for len(left()) == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil || len(left()) > 0 {
		t.Errorf("ended with %v and left %v", err, left())
	}
}

func TestTheFlagCountsBeforeTheVariableAndTheCores(t *testing.T) {
	for _, c := range []struct {
		args     []string
		variable string
		want     int
	}{{nil, "", runtime.GOMAXPROCS(0)}, {nil, "5", 5}, {[]string{"--capacity", "3"}, "5", 3}, {[]string{"--capacity=4"}, "", 4}} {
		if got, err := askedCapacity(c.args, c.variable); err != nil || got != c.want {
			t.Errorf("%v with %q: got %d, %v", c.args, c.variable, got, err)
		}
	}
}

func TestWrongArgumentsEndWith64AndOneLine(t *testing.T) {
	for _, args := range [][]string{{"--capacity", "0"}, {"--capacity", "x"}, {"--other"}, {"more"}} {
		cmd, _, _ := worker(t, args...)
		out, err := cmd.CombinedOutput()
		status, ok := errors.AsType[*exec.ExitError](err)
		if !ok || status.ExitCode() != 64 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "--capacity") {
			t.Errorf("%v: %v, %q", args, err, out)
		}
	}
	if _, err := askedCapacity(nil, "many"); err == nil || !strings.Contains(err.Error(), `NOA_WORKER_CAPACITY is "many"`) {
		t.Errorf("got %v", err)
	}
}
