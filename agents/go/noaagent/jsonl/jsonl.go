// Package jsonl writes a file of JSON lines that survives a crash: a line is on disk when Append returns, and a line
// that was left unfinished spoils no other.
package jsonl

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
)

// File is a file of JSON lines. Its methods may be called from any goroutine.
type File struct {
	mu    sync.Mutex
	file  *os.File
	torn  bool // the file does not end with a whole line
	count int
}

// Open opens the file at path for appending and creates it if it is not there.
func Open(path string) (*File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	torn, err := endsTorn(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &File{file: file, torn: torn}, nil
}

// Append writes value as one line and returns how many lines were appended since Open, once it is on disk.
func (f *File) Append(value any) (int, error) {
	line, err := json.Marshal(value)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.torn {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.file.Write(append(line, '\n'))
	if err == nil {
		err = f.file.Sync()
	}
	if f.torn = err != nil; f.torn {
		return 0, err
	}
	f.count++
	return f.count, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

func endsTorn(file *os.File) (bool, error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return false, err
	}
	last := make([]byte, 1)
	_, err = file.ReadAt(last, end-1)
	return last[0] != '\n', err
}
