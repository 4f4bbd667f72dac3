package compress

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/noa-workflow/noa/agents/go/noaagent"
)

// How much is read at a time; cancelling is seen between two pieces.
const piece = 256 << 10

// unreadableError says why a file could not be read.
type unreadableError struct{ reason error }

func (e *unreadableError) Error() string {
	if path, ok := errors.AsType[*fs.PathError](e.reason); ok { // the path is told beside it
		return path.Err.Error()
	}
	return e.reason.Error()
}

func (e *unreadableError) Unwrap() error { return e.reason }

var (
	errDirectory  = errors.New("is a directory")
	errNotRegular = errors.New("is not a regular file")
)

// press compresses one file after the other into a folder. Its memory does not grow with them.
type press struct {
	dir    string
	buffer []byte
	hash   hash.Hash
	out    *bufio.Writer
	gzip   *gzip.Writer
}

func newPress(dir string, level int) (*press, error) {
	out := bufio.NewWriterSize(nil, piece)
	zip, err := gzip.NewWriterLevel(out, level)
	if err != nil {
		return nil, err
	}
	return &press{dir: dir, buffer: make([]byte, piece), hash: sha256.New(), out: out, gzip: zip}, nil
}

// file reads the file at path once and leaves its result in the folder. An error is an [*unreadableError], or what kept
// the result from being written; nothing is left behind then.
func (p *press) file(ctx context.Context, path string) (Compressed, error) {
	source, err := open(path)
	if err != nil {
		return Compressed{}, &unreadableError{err}
	}
	defer source.Close()
	temporary := filepath.Join(p.dir, ".tmp-"+rand.Text())
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Compressed{}, err
	}
	defer func() { _ = os.Remove(temporary) }() // gone already once it is renamed
	defer f.Close()                             // again, where put has not come to it
	read, err := p.copy(ctx, f, source)
	if err != nil {
		return Compressed{}, err
	}
	sum := hex.EncodeToString(p.hash.Sum(nil))
	target := filepath.Join(p.dir, sum+".gz")
	written, err := put(f, temporary, target)
	return Compressed{SizeBytes: read, SHA256: sum, GzipPath: target, GzipBytes: written}, err
}

// open opens a regular file, which a symbolic link may name.
func open(path string) (*os.File, error) {
	info, err := os.Stat(path) // before opening: opening a named pipe would wait for a writer
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errDirectory
	case !info.Mode().IsRegular():
		return nil, errNotRegular
	}
	return os.Open(path)
}

// copy compresses source into f and hashes it on the way.
func (p *press) copy(ctx context.Context, f io.Writer, source io.Reader) (read int64, err error) {
	p.hash.Reset()
	p.out.Reset(f)
	p.gzip.Reset(p.out)
	from := &watched{source: noaagent.ContextReader(ctx, source)}
	read, err = io.CopyBuffer(io.MultiWriter(p.hash, p.gzip), from, p.buffer)
	if from.err != nil {
		return read, &unreadableError{from.err}
	}
	return read, errors.Join(err, p.gzip.Close(), p.out.Flush())
}

// watched remembers what went wrong while reading, which a copy does not tell from writing.
type watched struct {
	source io.Reader
	err    error
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.source.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// put brings what was written to f to target, at once and durably, unless it is there already. It returns its size.
func put(f *os.File, temporary, target string) (size int64, err error) {
	if there, err := os.Lstat(target); err == nil && there.Mode().IsRegular() {
		return there.Size(), nil
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(temporary, target)
}

// sync makes the names of the results durable.
func (p *press) sync() error {
	dir, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
