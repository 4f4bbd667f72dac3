package noaagent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

type order struct {
	Name  string   `json:"name" pattern:"^[a-z]+$"`
	Count int      `json:"count,omitempty" min:"1" max:"9"`
	Kind  string   `json:"kind,omitempty" enum:"small,large"`
	Parts []part   `json:"parts,omitempty"`
	Tags  []string `json:"tags,omitempty"`
}

type part struct {
	ID uint8 `json:"id"`
}

func (o order) Validate() error {
	if o.Kind == "large" && o.Count == 0 {
		return &noaagent.FieldError{Field: "count", Problem: "is required for a large order"}
	}
	return nil
}

// serveWork starts an agent with the one action "work".
func serveWork[In, Out any](t testing.TB, work func(context.Context, *noaagent.Execution, In) (Out, error)) *agenttest.Running {
	t.Helper()
	a := noaagent.New("test", "1")
	noaagent.Handle(a, noaagent.Action{Name: "work"}, work)
	return agenttest.Start(t, a).AwaitServing(t)
}

func TestInvalidInputNamesTheField(t *testing.T) {
	r := serveWork(t, func(_ context.Context, _ *noaagent.Execution, in order) (order, error) { return in, nil })
	for i, c := range []struct{ input, want string }{
		{`{`, `"input" is not JSON`},
		{"\xef\xbb\xbf{}", `"input" is not JSON`},
		{"{\"name\": \"\xff\"}", `UTF-8`},
		{`{} {}`, `"input" is not JSON`},
		{`[]`, `"input" must be object, not array`},
		{`null`, `"input" must be object, not null`},
		{`{}`, `"name" is required`},
		{`{"name": 5}`, `"name" must be string, not number`},
		{`{"name": null}`, `"name" must be string, not null`},
		{`{"name": "A"}`, `"name" must match`},
		{`{"name": "a", "name": "A"}`, `"name" must match`},
		{`{"Name": "A", "name": "a"}`, `"Name" is not known. Did you mean "name"`},
		{`{"name": "a", "count": 1.5}`, `"count" must be an integer`},
		{`{"name": "a", "count": 0}`, `"count" must be at least 1`},
		{`{"name": "a", "count": 10}`, `"count" must be at most 9`},
		{`{"name": "a", "count": 1e999999999}`, `"count" is too large`},
		{`{"name": "a", "kind": "medium"}`, `"kind" must be one of`},
		{`{"name": "a", "kind": "large"}`, `"count" is required for a large order`},
		{`{"name": "a", "parts": {}}`, `"parts" must be array`},
		{`{"name": "a", "parts": [{"id": 1}, {}]}`, `"parts[1].id" is required`},
		{`{"name": "a", "parts": [{"id": -1}]}`, `"parts[0].id" must be at least 0`},
		{`{"name": "a", "parts": [{"id": 256}]}`, `"parts.id" must be of type uint8`},
		{`{"name": "a", "tags": ["x", 1]}`, `"tags[1]" must be string`},
	} {
		t.Run(c.input, func(t *testing.T) {
			req := agenttest.Request(t, fmt.Sprint(i), "work", nil)
			req.Input.Value = &agentpb.Payload_Inline{Inline: []byte(c.input)}
			f := wantCode(t, r.Execute(t, req), "INVALID_INPUT", false)
			if !strings.Contains(f.GetMessage(), c.want) {
				t.Errorf("got %q, want it to contain %q", f.GetMessage(), c.want)
			}
		})
	}
	ok := object{"name": "a", "parts": nil, "more": true}
	if f := agenttest.Failure(t, r.Execute(t, agenttest.Request(t, "ok", "work", ok))); f != nil {
		t.Errorf("an unknown field and a null list were refused: %v", f)
	}
	text := agenttest.Request(t, "text", "work", ok)
	text.Input.ContentType = "text/plain"
	wantCode(t, r.Execute(t, text), "INVALID_INPUT", false)
	large := agenttest.Request(t, "large", "work", object{"name": strings.Repeat("a", 256<<10)})
	wantCode(t, r.Execute(t, large), "PAYLOAD_TOO_LARGE", false)
}

func TestUnknownActionNamesTheKnownOnes(t *testing.T) {
	r := start(t, newGate(true))
	f := wantCode(t, r.Execute(t, agenttest.Request(t, "u", "ehco", empty{})), "UNKNOWN_ACTION", false)
	if !strings.Contains(f.GetMessage(), "echo, gate") {
		t.Errorf("got %q", f.GetMessage())
	}
}

func TestFailures(t *testing.T) {
	deep := noaagent.Fail{Code: "DEEP", Message: "x"}
	for range 20 {
		deep = noaagent.Fail{Code: "DEEP", Message: "x", Cause: deep}
	}
	for name, c := range map[string]struct {
		work      func() error
		code      string
		message   string
		retryable bool
	}{
		"panic":        {func() error { panic("boom") }, "INTERNAL", "the action panicked: boom", false},
		"nil panic":    {func() error { panic(nil) }, "INTERNAL", "panicked", false},
		"goexit":       {func() error { runtime.Goexit(); return nil }, "INTERNAL", "ended its goroutine", false},
		"plain error":  {func() error { return errors.New("disk on fire") }, "INTERNAL", "disk on fire", false},
		"fail":         {func() error { return noaagent.Fail{Code: "A", Message: "m", Retryable: true} }, "A", "m", true},
		"pointer":      {func() error { return &noaagent.Fail{Code: "A", Message: "m"} }, "A", "m", false},
		"wrapped":      {func() error { return fmt.Errorf("so: %w", noaagent.Fail{Code: "A", Message: "m"}) }, "A", "m", false},
		"no code":      {func() error { return noaagent.Fail{Message: "m"} }, "INTERNAL", "m", false},
		"no message":   {func() error { return noaagent.Fail{Code: "A"} }, "A", "without a message", false},
		"bad utf-8":    {func() error { return noaagent.Fail{Code: "A", Message: "\xff"} }, "A", "\uFFFD", false},
		"long message": {func() error { return noaagent.Fail{Code: "A", Message: strings.Repeat("é", 1<<20)} }, "A", "é…", false},
		"long details": {func() error {
			return noaagent.Fail{Code: "A", Message: "m", Details: object{"x": strings.Repeat("x", 1<<20)}}
		}, "A", "m", false},
		"odd details": {func() error {
			return noaagent.Fail{Code: "A", Message: "m", Details: object{"x": make(chan int)}}
		}, "A", "m", false},
		"deep": {func() error { return deep }, "DEEP", "x", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := serveWork(t, func(context.Context, *noaagent.Execution, empty) (empty, error) { return empty{}, c.work() })
			f := wantCode(t, r.Execute(t, agenttest.Request(t, "f", "work", empty{})), c.code, c.retryable)
			if !strings.Contains(f.GetMessage(), c.message) || len(f.GetMessage()) > 16<<10 || proto.Size(f) > 128<<10 {
				t.Errorf("got %d bytes: %.200v", proto.Size(f), f)
			}
			depth := 0
			for ; f != nil; f = f.GetCause() {
				depth++
			}
			if depth > 8 {
				t.Errorf("%d levels of causes", depth)
			}
		})
	}
}

func TestDetailsAndRetryAfterAreTold(t *testing.T) {
	r := serveWork(t, func(context.Context, *noaagent.Execution, empty) (empty, error) {
		return empty{}, noaagent.Fail{
			Code: "A", Message: "m", RetryAfter: time.Second, Details: object{"files": []string{"a"}, "n": 3},
			Cause: errors.New("why"),
		}
	})
	f := wantCode(t, r.Execute(t, agenttest.Request(t, "f", "work", empty{})), "A", false)
	if f.GetRetryAfter().AsDuration() != time.Second || f.GetDetails().AsMap()["n"] != 3.0 || f.GetCause().GetMessage() != "why" {
		t.Errorf("got %v", f)
	}
}

func TestOutputThatBreaksItsSchemaIsInternal(t *testing.T) {
	type out struct {
		Kind string `json:"kind" enum:"a,b"`
	}
	r := serveWork(t, func(context.Context, *noaagent.Execution, empty) (out, error) { return out{"c"}, nil })
	wantCode(t, r.Execute(t, agenttest.Request(t, "o", "work", empty{})), "INTERNAL", false)
}

func storeIn(t testing.TB, req *agentpb.ExecuteRequest) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a store") // a blank, since URIs are escaped
	req.ArtifactPrefix = (&url.URL{Scheme: "file", Path: dir + "/"}).String()
	return dir
}

func TestLargeOutputGoesByReferenceAndComesBackAsInput(t *testing.T) {
	r := serveWork(t, func(_ context.Context, _ *noaagent.Execution, in object) (object, error) {
		if in["text"] != nil {
			return object{"n": len(in["text"].(string))}, nil
		}
		return object{"text": strings.Repeat("x", 5<<20)}, nil
	})
	req := agenttest.Request(t, "big", "work", empty{})
	dir := storeIn(t, req)
	out := r.Execute(t, req)
	ref := out[len(out)-1].GetCompleted().GetOutput().GetArtifact()
	raw, err := os.ReadFile(filepath.Join(dir, ref.GetSha256()[:2], ref.GetSha256()))
	if sum := sha256.Sum256(raw); err != nil || hex.EncodeToString(sum[:]) != ref.GetSha256() || uint64(len(raw)) != ref.GetSizeBytes() {
		t.Fatalf("got %v, %v for %d bytes", ref, err, len(raw))
	}
	next := agenttest.Request(t, "next", "work", empty{})
	next.Input = out[len(out)-1].GetCompleted().GetOutput()
	if got := agenttest.Output[object](t, r.Execute(t, next)); got["n"] != float64(5<<20) {
		t.Errorf("got %v", got)
	}
	for name, change := range map[string]func(*agentpb.Artifact){
		"gone": func(a *agentpb.Artifact) { a.Uri += "x" },
		"size": func(a *agentpb.Artifact) { a.SizeBytes++ },
		"hash": func(a *agentpb.Artifact) { a.Sha256 = strings.Repeat("0", 64) },
		"http": func(a *agentpb.Artifact) { a.Uri = "http://127.0.0.1/x" },
	} {
		bad := agenttest.Request(t, name, "work", empty{})
		bad.Input = proto.CloneOf(next.Input)
		change(bad.Input.GetArtifact())
		wantCode(t, r.Execute(t, bad), "INVALID_INPUT", false)
	}
	wantCode(t, r.Execute(t, agenttest.Request(t, "no store", "work", empty{})), "PAYLOAD_TOO_LARGE", false)
}

func TestArtifactsAreCreatedOnceAndLeaveNoTemporaryFiles(t *testing.T) {
	type inOut struct {
		Ref *noaagent.ArtifactRef `json:"ref,omitempty"`
	}
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, in inOut) (inOut, error) {
		ref, err := x.Artifacts().Create("text/plain", strings.NewReader("content"))
		if err != nil {
			return inOut{}, err
		}
		if in.Ref != nil && *in.Ref != ref {
			return inOut{}, errors.New("the reference has changed on its way")
		}
		content, err := x.Artifacts().Read(ref)
		if string(content) != "content" {
			err = fmt.Errorf("read %q, %w", content, err)
		}
		_, none := x.Artifacts().Create("text/plain", brokenReader{})
		if none == nil {
			err = errors.New("a broken reader made an artifact")
		}
		return inOut{Ref: &ref}, err
	})
	var first json.RawMessage
	dir := t.TempDir()
	for i, input := range []func() any{func() any { return empty{} }, func() any { return first }} {
		req := agenttest.Request(t, fmt.Sprint(i), "work", input())
		req.ArtifactPrefix = "file://" + dir + "/"
		first = agenttest.Output[json.RawMessage](t, r.Execute(t, req))
	}
	if !bytes.HasPrefix(first, []byte(`{"ref":{"$artifact":{"uri":"file:///`)) {
		t.Errorf("got %s", first)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(files) != 1 || len(hidden) != 0 {
		t.Errorf("got %v, %v, %v", files, hidden, err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestObservationsArriveInOrder(t *testing.T) {
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (object, error) {
		x.Progress(0.5, "half")
		x.Progress(0.2, "back")
		x.Progress(-1, "lost")
		x.ProgressUnits(3, 4, "files", "copying")
		x.Log(slog.LevelWarn, "look\n")
		x.Output("", []byte("tok"))
		x.Output("application/x", make([]byte, 300<<10))
		x.Metric("files_per_s", 2.5)
		return object{"task": x.Task, "attempt": x.Attempt}, nil
	})
	out := r.Execute(t, agenttest.Request(t, "o", "work", empty{}))
	var got []string
	for _, m := range out[1 : len(out)-1] {
		switch {
		case m.GetProgress() != nil:
			p := m.GetProgress()
			got = append(got, fmt.Sprintf("%s %v %v %d/%d", p.GetMessage(), p.Fraction != nil, p.GetFraction(), p.GetDone(), p.GetTotal()))
		case m.GetLog() != nil:
			got = append(got, m.GetLog().GetLevel().String()+m.GetLog().GetMessage())
		case m.GetOutput() != nil:
			got = append(got, fmt.Sprint(len(m.GetOutput().GetData())))
		}
	}
	want := []string{"half true 0.5 0/0", "back true 0.5 0/0", "lost false 0 0/0", "copying true 0.75 3/4",
		"LOG_LEVEL_WARNINGlook", "3", "262144", "45056"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if v := out[len(out)-1].GetCompleted().GetMetrics().GetValues()["files_per_s"]; v != 2.5 {
		t.Errorf("got metric %v", v)
	}
}

func TestLoggerWritesToTheRunsLog(t *testing.T) {
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (empty, error) {
		log := x.Logger().With("file", "a b")
		log.Error("not read", "size", 3)
		log.WithGroup("g").Debug("opened", "n", 1)
		x.Logger().Info("done", "level", 6, "msg", "m")
		return empty{}, nil
	})
	var got []string
	for _, m := range r.Execute(t, agenttest.Request(t, "l", "work", empty{})) {
		if line := m.GetLog(); line != nil {
			got = append(got, line.GetLevel().String()+" "+line.GetMessage())
		}
	}
	want := []string{`LOG_LEVEL_ERROR not read file="a b" size=3`, `LOG_LEVEL_DEBUG opened file="a b" g.n=1`, `LOG_LEVEL_INFO done level=6 msg=m`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestClientThatDoesNotReadLosesObservationsButNotTheResult(t *testing.T) {
	done := make(chan time.Duration, 1)
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (object, error) {
		begun, piece := time.Now(), make([]byte, 64<<10)
		for range 4000 { // 250 MiB
			x.Output("", piece)
		}
		done <- time.Since(begun)
		return object{"done": true}, nil
	})
	stream := execute(t, r, agenttest.Request(t, "s", "work", empty{}))
	select {
	case took := <-done:
		t.Logf("the work took %v", took)
	case <-time.After(time.Minute):
		t.Fatal("the work waits for its client")
	}
	runtime.GC()
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapInuse > 64<<20 {
		t.Errorf("%d MiB are held for a client that does not read", m.HeapInuse>>20)
	}
	out := agenttest.Drain(t, stream)
	if agenttest.Failure(t, out) != nil || len(out) > 1000 {
		t.Errorf("got %d messages", len(out))
	}
}

func TestOutputDir(t *testing.T) {
	r := serveWork(t, func(_ context.Context, x *noaagent.Execution, _ empty) (object, error) {
		dir, err := x.OutputDir()
		return object{"dir": dir}, err
	})
	named := agenttest.Request(t, "named", "work", empty{})
	want := filepath.Join(t.TempDir(), "a b", "c")
	named.OutputPrefix = (&url.URL{Scheme: "file", Path: want + "/"}).String()
	if got := agenttest.Output[object](t, r.Execute(t, named)); got["dir"] != want {
		t.Errorf("got %v, want %s", got, want)
	}
	unnamed := agenttest.Output[object](t, r.Execute(t, agenttest.Request(t, "unnamed", "work", empty{})))["dir"].(string)
	if info, err := os.Stat(unnamed); err != nil || !info.IsDir() {
		t.Errorf("got %v, %v", info, err)
	}
	if c := cancel(t, r, byRun("run-unnamed")); c.GetCancelled() != 1 {
		t.Errorf("got %v", c)
	}
	if _, err := os.Stat(unnamed); !os.IsNotExist(err) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
	if _, err := os.Stat(want); err != nil {
		t.Errorf("the named folder is gone: %v", err)
	}
}
