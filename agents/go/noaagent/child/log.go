//go:build unix

package child

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
)

const tailBytes = 2 << 10

// log is the file that a child writes to, from where it began.
type log struct {
	file  *os.File
	begin int64

	mu   sync.Mutex
	last string // its tail, once the file is closed
	done bool
}

func openLog(path string) (*log, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	begin, err := file.Seek(0, io.SeekEnd)
	return &log{file: file, begin: begin}, err
}

func (l *log) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return l.last
	}
	return l.read()
}

func (l *log) read() string {
	end, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	last := make([]byte, tailBytes)
	n, _ := l.file.ReadAt(last, max(l.begin, end-tailBytes))
	return strings.TrimSpace(strings.ToValidUTF8(string(last[:n]), "\uFFFD"))
}

// end closes the file after a line that says how the child ended.
func (l *log) end(line string) {
	slog.Info("child process ended", "how", line)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.done = l.read(), true
	_, _ = fmt.Fprintf(l.file, "[%s]\n", line)
	_ = l.file.Close()
}
