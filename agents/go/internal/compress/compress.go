// Package compress is the action compress_files: it hashes and compresses files into a folder of results that are
// named by what is in them, so that doing it twice, or in two places at once, is as doing it once.
package compress

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/noa-workflow/noa/agents/go/noaagent"
)

const worker = "go"

// Input names the files.
type Input struct {
	Root      *string `json:"root,omitempty" desc:"Folder that relative paths of files begin at: a path or a file URI. Unset: the agent's working folder."`
	Files     []File  `json:"files" desc:"What to compress, in this order."`
	OutputDir *string `json:"output_dir,omitempty" desc:"Folder for the results: a file URI or a path. Unset: the run's output folder."`
	Level     *int    `json:"level,omitempty" min:"1" max:"9" desc:"From 1, fast, to 9, small; 6 if unset."`
}

// File is a file to compress.
type File struct {
	Path string `json:"path" desc:"Absolute, or relative to root."`
	Size *int64 `json:"size,omitempty" min:"0" desc:"Its size when it was listed, in bytes. Informative."`
}

// Output says what became of each file.
type Output struct {
	Files    []Compressed `json:"files" desc:"Those that were read, in the order of the input."`
	Skipped  []Skipped    `json:"skipped" desc:"Those that could not be read."`
	BytesIn  int64        `json:"bytes_in" desc:"Sum of size_bytes."`
	BytesOut int64        `json:"bytes_out" desc:"Sum of gzip_bytes; equal files are one result and count once."`
	Worker   string       `json:"worker" desc:"Who did it: its language."`
	PID      int          `json:"pid" desc:"Process id of the worker."`
}

// Compressed is a file that was read as a whole.
type Compressed struct {
	Path      string `json:"path" desc:"As in the input."`
	SizeBytes int64  `json:"size_bytes" min:"0"`
	SHA256    string `json:"sha256" desc:"Of the content, in hex." pattern:"^[0-9a-f]{64}$"`
	GzipPath  string `json:"gzip_path" desc:"Absolute path of the result, <output_dir>/<sha256>.gz."`
	GzipBytes int64  `json:"gzip_bytes" min:"0"`
}

// Skipped is a file that could not be read.
type Skipped struct {
	Path   string `json:"path" desc:"As in the input."`
	Reason string `json:"reason"`
}

// Validate checks that every file has a path.
func (in Input) Validate() error {
	for i, f := range in.Files {
		if f.Path == "" {
			return &noaagent.FieldError{Field: fmt.Sprintf("files[%d].path", i), Problem: "must not be empty"}
		}
	}
	return nil
}

// Register adds the action compress_files to a.
func Register(a *noaagent.Agent) {
	noaagent.Handle(a, noaagent.Action{
		Name:        "compress_files",
		Description: "Hashes files and compresses them with gzip into a folder of results named by content.",
		Idempotent:  true,
	}, compressFiles)
}

func compressFiles(ctx context.Context, x *noaagent.Execution, in Input) (Output, error) {
	root, err := noaagent.LocalPath(given(in.Root, ""))
	if err != nil {
		return Output{}, noaagent.Failf(noaagent.CodeInvalidInput, "field %q: %w", "root", err)
	}
	dir, err := outputDir(x, given(in.OutputDir, ""))
	if err != nil {
		return Output{}, err
	}
	p, err := newPress(dir, given(in.Level, gzip.DefaultCompression))
	if err != nil {
		return Output{}, err
	}
	out := Output{Files: []Compressed{}, Skipped: []Skipped{}, Worker: worker, PID: os.Getpid()}
	total, contents := uint64(len(in.Files)), map[string]bool{}
	for i, f := range in.Files {
		x.ProgressUnits(uint64(i), total, "files", f.Path)
		done, err := p.file(ctx, located(root, f.Path))
		switch unreadable, skip := errors.AsType[*unreadableError](err); {
		case ctx.Err() != nil:
			return Output{}, context.Cause(ctx)
		case skip:
			out.Skipped = append(out.Skipped, Skipped{Path: f.Path, Reason: unreadable.Error()})
		case err != nil:
			return Output{}, notWritable(dir, err)
		default:
			done.Path = f.Path
			out.Files = append(out.Files, done)
			out.BytesIn += done.SizeBytes
			if !contents[done.SHA256] {
				contents[done.SHA256] = true
				out.BytesOut += done.GzipBytes
			}
		}
	}
	if err := p.sync(); err != nil {
		return Output{}, notWritable(dir, err)
	}
	x.ProgressUnits(total, total, "files", "")
	return out, nil
}

// given is what p points to, or otherwise where nothing was given.
func given[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func located(root, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(root, path)
}

func outputDir(x *noaagent.Execution, named string) (string, error) {
	if named == "" {
		dir, err := x.OutputDir()
		if err != nil {
			return "", notWritable(dir, err)
		}
		return dir, nil
	}
	dir, err := noaagent.LocalPath(named)
	if err != nil {
		return "", noaagent.Failf(noaagent.CodeInvalidInput, "field %q: %w", "output_dir", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", notWritable(dir, err)
	}
	return dir, nil
}

// notWritable is the failure of a result that cannot be written. What was written before stays for the next attempt.
func notWritable(dir string, err error) error {
	f := noaagent.Failf("OUTPUT_NOT_WRITABLE", "the folder %s cannot be written: %w. Free the disk or name another", dir, err)
	f.Retryable = !errors.Is(err, fs.ErrPermission)
	return f
}
