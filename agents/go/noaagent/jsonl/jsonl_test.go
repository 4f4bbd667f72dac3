package jsonl_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/noa-workflow/noa/agents/go/noaagent/jsonl"
)

func TestLinesAreWholeWhateverWasThereBefore(t *testing.T) {
	for before, want := range map[string]string{
		"":                   "1\n\"two\\nlines\"\n",
		"{\"old\":1}\n":      "{\"old\":1}\n1\n\"two\\nlines\"\n",
		"{\"old\":1}\n{\"to": "{\"old\":1}\n{\"to\n1\n\"two\\nlines\"\n",
	} {
		path := filepath.Join(t.TempDir(), "x.jsonl")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := jsonl.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Append(math.NaN()); err == nil {
			t.Error("what is not JSON was appended")
		}
		for i, value := range []any{1, "two\nlines"} {
			if n, err := f.Append(value); n != i+1 || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if _, err := f.Append(1); err == nil {
			t.Error("a closed file took a line")
		}
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFileThatCannotBeOpenedIsAnError(t *testing.T) {
	if _, err := jsonl.Open(t.TempDir()); err == nil {
		t.Error("a folder was opened")
	}
}
