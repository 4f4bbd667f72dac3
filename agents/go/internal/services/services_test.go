package services_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/noa-workflow/noa/agents/go/internal/services"
	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

type object = map[string]any

// TestMain is a service instead of the tests when it is told so.
func TestMain(m *testing.M) {
	kind, address, _ := strings.Cut(os.Getenv("TEST_SERVICE"), "@")
	if kind == "" {
		os.Exit(m.Run())
	}
	fmt.Println("here is", kind)
	if strings.HasPrefix(kind, "stubborn") {
		signal.Ignore(syscall.SIGTERM)
	}
	switch kind {
	case "http":
		err := http.ListenAndServe(address, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		fmt.Println(err)
	case "grpc":
		l, err := net.Listen("tcp", address)
		if err != nil {
			panic(err)
		}
		s := grpc.NewServer()
		healthpb.RegisterHealthServer(s, health.NewServer())
		fmt.Println(s.Serve(l))
	case "exit":
		os.Exit(3)
	default:
		time.Sleep(time.Hour)
	}
}

func service(name, kind, address string, more object) object {
	s := object{"name": name, "command": []string{os.Args[0]}, "env": object{"TEST_SERVICE": kind + "@" + address}}
	for k, v := range more {
		s[k] = v
	}
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func serve(t *testing.T) *agenttest.Running {
	t.Helper()
	a := noaagent.New("go", "test")
	services.Register(a)
	return agenttest.Start(t, a).AwaitServing(t)
}

// startup asks for services and returns the messages and the run's output folder.
func startup(t *testing.T, r *agenttest.Running, input any) ([]*agentpb.ExecuteResponse, string) {
	t.Helper()
	req, dir := request(t, input)
	return r.Execute(t, req), dir
}

func request(t *testing.T, input any) (*agentpb.ExecuteRequest, string) {
	t.Helper()
	req, dir := agenttest.Request(t, "1", "service_startup", input), t.TempDir()
	req.OutputPrefix = "file://" + dir + "/"
	return req, dir
}

func release(t *testing.T, r *agenttest.Running) *agentpb.CancelResponse {
	t.Helper()
	req := &agentpb.CancelRequest{Target: &agentpb.CancelRequest_RunId{RunId: "run-1"}}
	c, err := r.Client.Cancel(agenttest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// alive tells whether a process exists and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func wantGone(t *testing.T, pid int) {
	t.Helper()
	for range 200 {
		if !alive(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestEveryKindOfReadinessAndTheRelease(t *testing.T) {
	r := serve(t)
	web, rpc := freeAddress(t), freeAddress(t)
	out, dir := startup(t, r, object{"other": 1, "services": []any{
		service("web", "http", web, object{"ready": object{"http": "http://" + web + "/x"}}),
		service("port", "sleep", "", object{"ready": object{"tcp": web}}),
		service("rpc", "grpc", rpc, object{"ready": object{"grpc": rpc}, "timeout_s": 20}),
		service("plain", "stubborn", "", nil),
	}})
	got := agenttest.Output[services.Output](t, out).Services
	for name, url := range map[string]string{
		"web": "http://" + web + "/x", "port": "tcp://" + web, "rpc": "grpc://" + rpc, "plain": "",
	} {
		if got[name].URL != url || !alive(got[name].PID) {
			t.Errorf("%s: got %+v", name, got[name])
		}
	}
	begun := time.Now()
	if c := release(t, r); c.GetCancelled() != 4 || time.Since(begun) > 5*time.Second {
		t.Errorf("got %v after %v", c, time.Since(begun))
	}
	for _, s := range got {
		wantGone(t, s.PID)
	}
	if c := release(t, r); c.GetOutcome() != agentpb.CancelOutcome_CANCEL_OUTCOME_UNKNOWN {
		t.Errorf("the second time: %v", c)
	}
	log, err := os.ReadFile(filepath.Join(dir, "services", "web.log"))
	if err != nil || !strings.Contains(string(log), "here is http") || !strings.Contains(string(log), "ended: signal: terminated") {
		t.Errorf("got log %q, %v", log, err)
	}
}

func TestServiceThatIsNotReadyStopsAllOfThemAndIsNamed(t *testing.T) {
	for kind, why := range map[string]string{"sleep": "is not ready after 500ms", "exit": "exit status 3"} {
		t.Run(kind, func(t *testing.T) {
			r := serve(t)
			pids := filepath.Join(t.TempDir(), "pid")
			never := object{"ready": object{"tcp": freeAddress(t)}, "timeout_s": 0.5}
			out, _ := startup(t, r, object{"services": []any{
				object{"name": "first", "command": []string{"sh", "-c", "echo $$ > " + pids + "; exec sleep 1000"}},
				service("second", kind, "", never),
			}})
			f := agenttest.Failure(t, out)
			if f.GetCode() != "SERVICE_NOT_READY" || !strings.Contains(f.GetMessage(), `"second"`) ||
				!strings.Contains(f.GetMessage(), why) || !strings.Contains(f.GetMessage(), "here is "+kind) {
				t.Errorf("got %v", f)
			}
			raw, err := os.ReadFile(pids)
			if err != nil {
				t.Fatal(err)
			}
			pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
			wantGone(t, pid)
			if c := release(t, r); c.GetOutcome() != agentpb.CancelOutcome_CANCEL_OUTCOME_UNKNOWN {
				t.Errorf("something is held still: %v", c)
			}
		})
	}
}

func TestProgramThatIsNotThereIsNamed(t *testing.T) {
	out, _ := startup(t, serve(t), object{"services": []any{object{"name": "x", "command": []string{"/no/such/program"}}}})
	if f := agenttest.Failure(t, out); f.GetCode() != "SERVICE_NOT_READY" || !strings.Contains(f.GetMessage(), "/no/such/program") {
		t.Errorf("got %v", f)
	}
}

func TestReleaseDuringTheStartLeavesNothing(t *testing.T) {
	r := serve(t)
	pids := filepath.Join(t.TempDir(), "pids")
	script := "trap '' TERM; sleep 1000 & echo $! $$ > " + pids + "; wait; wait"
	req, _ := request(t, object{"services": []any{object{
		"name": "slow", "command": []string{"sh", "-c", script}, "ready": object{"tcp": freeAddress(t)},
	}}})
	stream, err := r.Client.Execute(agenttest.Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	var family []string
	for len(family) < 2 {
		raw, _ := os.ReadFile(pids)
		family = strings.Fields(string(raw))
		time.Sleep(5 * time.Millisecond)
	}
	if c := release(t, r); c.GetOutcome() != agentpb.CancelOutcome_CANCEL_OUTCOME_CANCELLED {
		t.Errorf("got %v", c)
	}
	if f := agenttest.Failure(t, agenttest.Drain(t, stream)); f.GetCode() != "CANCELLED" {
		t.Errorf("got %v", f)
	}
	for _, text := range family {
		pid, _ := strconv.Atoi(text)
		wantGone(t, pid)
	}
}

func TestServicesEndWithTheAgent(t *testing.T) {
	r := serve(t)
	out, _ := startup(t, r, object{"services": []any{service("plain", "stubborn", "", nil)}})
	pid := agenttest.Output[services.Output](t, out).Services["plain"].PID
	_ = r.Stdin.Close()
	if err := <-r.Ended; err != nil {
		t.Error(err)
	}
	wantGone(t, pid)
}

func TestInputMistakesNameTheField(t *testing.T) {
	r := serve(t)
	ok := []string{"true"}
	for i, c := range []struct {
		services []any
		want     string
	}{
		{[]any{object{"name": "../x", "command": ok}}, "services[0].name"},
		{[]any{object{"name": "a"}}, "services[0].command"},
		{[]any{object{"name": "a", "command": []string{}}}, "services[0].command"},
		{[]any{object{"name": "a", "command": ok}, object{"name": "a", "command": ok}}, "services[1].name"},
		{[]any{object{"name": "a", "command": ok, "ready": object{}}}, "services[0].ready"},
		{[]any{object{"name": "a", "command": ok, "ready": object{"tcp": "x", "grpc": "y"}}}, "services[0].ready"},
		{[]any{object{"name": "a", "command": ok, "timeout_s": -1}}, "services[0].timeout_s"},
		{[]any{object{"name": "a", "command": ok, "env": object{"A": 1}}}, "services[0].env.A"},
	} {
		req := agenttest.Request(t, fmt.Sprint(i), "service_startup", object{"services": c.services})
		f := agenttest.Failure(t, r.Execute(t, req))
		if f.GetCode() != "INVALID_INPUT" || !strings.Contains(f.GetMessage(), c.want) {
			t.Errorf("%v: got %v", c.services, f)
		}
	}
}

func TestWithoutServicesThereIsAnInboxUntilTheRunIsOver(t *testing.T) {
	r := serve(t)
	out, dir := startup(t, r, object{"greeting": "hello"})
	box := agenttest.Output[services.Output](t, out).Services["inbox"]
	if box.PID != os.Getpid() {
		t.Errorf("got pid %d", box.PID)
	}
	answer, err := http.Post(box.URL, "application/json", strings.NewReader(`{"level": "high"}`))
	if err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("got %v, %v", answer, err)
	}
	_ = answer.Body.Close()
	raw, err := os.ReadFile(filepath.Join(dir, "alerts.jsonl"))
	var line object
	if err != nil || json.Unmarshal(raw, &line) != nil || line["level"] != "high" {
		t.Errorf("got %q, %v", raw, err)
	}
	if c := release(t, r); c.GetCancelled() != 1 {
		t.Errorf("got %v", c)
	}
	if _, err := new(net.Dialer).DialContext(context.Background(), "tcp", strings.Split(box.URL, "/")[2]); err == nil {
		t.Error("the inbox still listens")
	}
}
