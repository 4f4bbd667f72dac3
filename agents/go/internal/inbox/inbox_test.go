package inbox_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/noa-workflow/noa/agents/go/internal/inbox"
)

func open(t *testing.T, before string) (*inbox.Inbox, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "alerts.jsonl")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := inbox.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b, path
}

func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, strings.TrimSpace(string(text))
}

func lines(t *testing.T, path string) (all []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		all = append(all, s.Text())
	}
	return all
}

func TestAnswers(t *testing.T) {
	b, path := open(t, "")
	health := strings.TrimSuffix(b.URL, "/alerts") + "/healthz"
	for _, c := range []struct {
		method, url, body string
		status            int
		text              string
	}{
		{"POST", b.URL, `{"a": 1.50, "text": "two\nlines"}`, 201, `{"count":1}`},
		{"POST", b.URL, "{\n\"received_at\": \"never\"\n}", 201, `{"count":2}`},
		{"POST", b.URL, `[1]`, 400, ""},
		{"POST", b.URL, `null`, 400, ""},
		{"POST", b.URL, `{`, 400, ""},
		{"POST", b.URL, "{\"a\": \"\xff\"}", 400, ""},
		{"POST", b.URL, ``, 400, ""},
		{"POST", b.URL, `{"a": "` + strings.Repeat("x", 1<<20) + `"}`, 413, ""},
		{"GET", b.URL, ``, 405, ""},
		{"GET", health, ``, 200, "ok"},
	} {
		status, text := call(t, c.method, c.url, c.body)
		if status != c.status || (c.text != "" && text != c.text) {
			t.Errorf("%s %.60s: got %d %q", c.method, c.body, status, text)
		}
	}
	got := lines(t, path)
	if len(got) != 2 || !strings.HasPrefix(got[0], `{"a":1.50,"received_at":"`) {
		t.Fatalf("got %q", got)
	}
	var alert struct {
		At time.Time `json:"received_at"`
	}
	if err := json.Unmarshal([]byte(got[1]), &alert); err != nil || time.Since(alert.At) > time.Minute {
		t.Errorf("got %v, %v", alert, err)
	}
}

func TestAlertsAtTheSameTimeAreAllRecorded(t *testing.T) {
	b, path := open(t, "{\"old\":1}\n{\"tor")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { call(t, "POST", b.URL, `{"n": 1}`) })
	}
	all.Wait()
	got := lines(t, path)
	if len(got) != 22 || got[0] != `{"old":1}` || got[1] != `{"tor` {
		t.Fatalf("got %q", got)
	}
	for _, line := range got[2:] {
		if !json.Valid([]byte(line)) {
			t.Errorf("got %q", line)
		}
	}
}
