package noaagent_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

func echoRequest(t testing.TB, id string, input object) *agentpb.ExecuteRequest {
	t.Helper()
	return agenttest.Request(t, id, "echo", input)
}

func TestEchoRefusesFieldsOfAWrongTypeOrSize(t *testing.T) {
	r := start(t, nil)
	for i, c := range []struct{ input, field string }{
		{`{"sleep_s": "1"}`, "sleep_s"}, {`{"sleep_s": -1}`, "sleep_s"}, {`{"burn_s": null}`, "burn_s"},
		{`{"progress": 1.5}`, "progress"}, {`{"progress": 100001}`, "progress"}, {`{"logs": true}`, "logs"},
		{`{"chunks": []}`, "chunks"}, {`{"size_bytes": 1073741825}`, "size_bytes"}, {`{"stderr_bytes": -1}`, "stderr_bytes"},
		{`{"child": 1}`, "child"}, {`{"panic": "yes"}`, "panic"}, {`{"fail": "no"}`, "fail"},
		{`{"fail": {"retry_after_s": "1"}}`, "fail.retry_after_s"},
	} {
		req := agenttest.Request(t, fmt.Sprint(i), "echo", nil)
		req.Input.Value = &agentpb.Payload_Inline{Inline: []byte(c.input)}
		if f := wantCode(t, r.Execute(t, req), "INVALID_INPUT", false); !strings.Contains(f.GetMessage(), `"`+c.field+`"`) {
			t.Errorf("%s: got %q", c.input, f.GetMessage())
		}
	}
}

func TestEmptyInlineInputIsAnEmptyObject(t *testing.T) {
	req := agenttest.Request(t, "e", "echo", nil)
	req.Input.Value = &agentpb.Payload_Inline{}
	out := agenttest.Output[json.RawMessage](t, start(t, nil).Execute(t, req))
	if string(out) != `{"echo":{}}` {
		t.Errorf("got %s", out)
	}
}

func TestIntegersMayBeWrittenWithAFraction(t *testing.T) {
	req := agenttest.Request(t, "e", "echo", nil)
	req.Input.Value = &agentpb.Payload_Inline{Inline: []byte(`{"logs": 2.0, "chunks": 1e0, "any": 2.0}`)}
	out := start(t, nil).Execute(t, req)
	if got := agenttest.Output[object](t, out)["echo"].(object); got["logs"] != 2.0 || got["any"] != 2.0 || len(out) != 5 {
		t.Errorf("got %v, %d messages", got, len(out))
	}
}

func TestEchoSendsWhatItIsAskedForCompleteAndInOrder(t *testing.T) {
	const n = 3000 // far above what a stream may have waiting
	out := start(t, nil).Execute(t, echoRequest(t, "o", object{"logs": n, "chunks": n, "progress": n}))
	logs, chunks, progress := 0, 0, 0
	for _, m := range out {
		switch {
		case m.GetLog() != nil:
			logs++
			if m.GetLog().GetMessage() != fmt.Sprintf("line %d", logs) {
				t.Fatalf("log %d is %v", logs, m)
			}
		case m.GetOutput() != nil:
			chunks++
			if string(m.GetOutput().GetData()) != fmt.Sprintf("chunk %d\n", chunks) {
				t.Fatalf("chunk %d is %v", chunks, m)
			}
		case m.GetProgress() != nil:
			progress++
			if p := m.GetProgress(); p.GetDone() != uint64(progress) || p.GetTotal() != n || p.GetFraction() != float64(progress)/n {
				t.Fatalf("progress %d is %v", progress, m)
			}
		}
	}
	if logs != n || chunks != n || progress != n {
		t.Errorf("got %d logs, %d chunks, %d progress messages", logs, chunks, progress)
	}
}

func TestEchoSpreadsProgressOverItsTime(t *testing.T) {
	begun := time.Now()
	stream := execute(t, start(t, nil), echoRequest(t, "p", object{"sleep_s": 0.2, "burn_s": 0.2, "progress": 4}))
	for i := 0; i < 4; {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetProgress() == nil {
			continue
		}
		i++
		if early := time.Duration(i)*100*time.Millisecond - time.Since(begun); early > 0 {
			t.Errorf("progress %d is %v early", i, early)
		}
	}
	if f := agenttest.Failure(t, agenttest.Drain(t, stream)); f != nil {
		t.Error(f)
	}
}

func TestEchoEndsAtOnceWhenItIsCancelled(t *testing.T) {
	r := start(t, nil)
	for _, field := range []string{"sleep_s", "burn_s"} {
		stream := execute(t, r, echoRequest(t, field, object{field: 600}))
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		wantCancel(t, r, byExecution(field), cancelled, 1)
		failure := agenttest.Failure(t, agenttest.Drain(t, stream))
		if failure.GetCode() != "CANCELLED" || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: %v after %v", field, failure, time.Since(begun))
		}
	}
}

func TestEchoPadsItsOutput(t *testing.T) {
	r := start(t, nil)
	small := agenttest.Output[object](t, r.Execute(t, echoRequest(t, "s", object{"size_bytes": 10})))
	if small["padding"] != "xxxxxxxxxx" {
		t.Errorf("got %v", small)
	}
	const size = 3 << 20
	req := echoRequest(t, "l", object{"size_bytes": size})
	dir := storeIn(t, req)
	out := r.Execute(t, req)
	ref := out[len(out)-1].GetCompleted().GetOutput().GetArtifact()
	raw, err := os.ReadFile(filepath.Join(dir, ref.GetSha256()[:2], ref.GetSha256()))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Echo    object
		Padding string
	}
	if err := json.Unmarshal(raw, &got); err != nil || got.Padding != strings.Repeat("x", size) || got.Echo["size_bytes"] != float64(size) {
		t.Errorf("got %d bytes of padding, %v", len(got.Padding), err)
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != ref.GetSha256() || ref.GetSizeBytes() != uint64(len(raw)) {
		t.Errorf("the reference is wrong: %v", ref)
	}
}

func TestLargeOutputOfACancelledExecutionLeavesNothingBehind(t *testing.T) {
	r := start(t, nil)
	req := echoRequest(t, "c", object{"size_bytes": 1 << 30})
	dir := storeIn(t, req)
	stream := execute(t, r, req)
	for ctx := agenttest.Context(t); len(hiddenIn(t, dir)) == 0 && ctx.Err() == nil; { // until it writes
		time.Sleep(time.Millisecond)
	}
	cancel(t, r, byExecution("c"))
	wantCode(t, agenttest.Drain(t, stream), "CANCELLED", false)
	for until := time.Now().Add(20 * time.Second); len(hiddenIn(t, dir)) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("left: %v", hiddenIn(t, dir))
		}
	}
}

func hiddenIn(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEchoHoldsItsChildForTheRun(t *testing.T) {
	r := start(t, nil)
	pid := int(agenttest.Output[object](t, r.Execute(t, echoRequest(t, "c", object{"child": true})))["pid"].(float64))
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("process %d: %v", pid, err)
	}
	wantCancel(t, r, byRun("run-c"), cancelled, 1)
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d is there after its run", pid)
	}
}

func TestEchoPanicsAndFailsAsAsked(t *testing.T) {
	r := start(t, nil)
	wantCode(t, r.Execute(t, echoRequest(t, "p", object{"panic": true})), "INTERNAL", false)
	wantCode(t, r.Execute(t, echoRequest(t, "d", object{"fail": object{}})), "ECHO_FAILED", false)
	f := wantCode(t, r.Execute(t, echoRequest(t, "f", object{"fail": object{
		"code": "OWN", "message": "as asked", "retryable": true, "retry_after_s": 1.5,
	}})), "OWN", true)
	if f.GetMessage() != "as asked" || f.GetRetryAfter().AsDuration() != 1500*time.Millisecond {
		t.Errorf("got %v", f)
	}
}

func TestEchoWritesToStderr(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stderr
	os.Stderr = write
	got := make(chan []byte)
	go func() { raw, _ := io.ReadAll(read); got <- raw }()
	const size = 1<<20 + 7
	f := agenttest.Failure(t, start(t, nil).Execute(t, echoRequest(t, "s", object{"stderr_bytes": size})))
	os.Stderr = old
	_ = write.Close()
	if raw := <-got; f != nil || len(raw) != size || raw[size-1] != '\n' {
		t.Errorf("got %d bytes, %v", len(raw), f)
	}
}
