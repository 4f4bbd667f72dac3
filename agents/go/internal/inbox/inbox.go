// Package inbox is a small HTTP service that records the alerts of a run in a file.
package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

const maxAlert = 1 << 20

// Inbox appends each JSON object that is posted to /alerts to a file, as one line with the time of its arrival.
type Inbox struct {
	// URL is where to post alerts.
	URL    string
	server http.Server
	mu     sync.Mutex
	file   *os.File
	torn   bool // the file does not end with a whole line
	count  int
}

// Open listens on a free port of the loopback interface and appends to the file at path.
func Open(path string) (*Inbox, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	b := &Inbox{URL: "http://" + listener.Addr().String() + "/alerts", file: file, torn: endsTorn(file)}
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
	alert["received_at"], _ = json.Marshal(time.Now().UTC().Format(time.RFC3339Nano))
	line, _ := json.Marshal(alert) // it was read as JSON, so it can be written
	count, err := b.record(append(line, '\n'))
	if err != nil {
		http.Error(w, "the alert was not recorded: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]int{"count": count})
}

// record returns once the line is on disk.
func (b *Inbox) record(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.torn {
		line = append([]byte("\n"), line...)
	}
	_, err := b.file.Write(line)
	if err == nil {
		err = b.file.Sync()
	}
	if b.torn = err != nil; b.torn {
		return 0, err
	}
	b.count++
	return b.count, nil
}

// endsTorn tells whether an earlier inbox left an unfinished line.
func endsTorn(file *os.File) bool {
	last := make([]byte, 1)
	end, err := file.Seek(0, io.SeekEnd)
	if err == nil && end > 0 {
		_, err = file.ReadAt(last, end-1)
	}
	return end > 0 && (err != nil || last[0] != '\n')
}
