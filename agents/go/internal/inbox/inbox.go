// Package inbox is a small HTTP service that records the alerts of a run in a file.
package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/noa-workflow/noa/agents/go/noaagent/jsonl"
)

const maxAlert = 1 << 20

// Inbox appends each JSON object that is posted to /alerts to a file, as one line with the time of its arrival.
type Inbox struct {
	// URL is where to post alerts.
	URL    string
	server http.Server
	file   *jsonl.File
}

// Open listens on a free port of the loopback interface and appends to the file at path.
func Open(path string) (*Inbox, error) {
	file, err := jsonl.Open(path)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	b := &Inbox{URL: "http://" + listener.Addr().String() + "/alerts", file: file}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /alerts", b.receive)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	b.server = http.Server{Handler: mux, ReadTimeout: 10 * time.Second}
	go func() { _ = b.server.Serve(listener) }()
	return b, nil
}

// Close lets alerts that are being received arrive until ctx ends, then stops listening.
func (b *Inbox) Close(ctx context.Context) error {
	err := b.server.Shutdown(ctx)
	return errors.Join(err, b.server.Close(), b.file.Close())
}

func (b *Inbox) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAlert))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		http.Error(w, "an alert has at most 1 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	var alert map[string]json.RawMessage
	if err != nil || !utf8.Valid(body) || json.Unmarshal(body, &alert) != nil || alert == nil {
		http.Error(w, "the body must be a JSON object", http.StatusBadRequest)
		return
	}
	alert["received_at"], _ = json.Marshal(time.Now().UTC())
	count, err := b.file.Append(alert)
	if err != nil {
		http.Error(w, "the alert was not recorded: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]int{"count": count})
}
