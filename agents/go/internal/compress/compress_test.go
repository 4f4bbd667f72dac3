package compress_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/noa-workflow/noa/agents/go/internal/compress"
	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

func start(t *testing.T) *agenttest.Running {
	t.Helper()
	a := noaagent.New("test", "1")
	compress.Register(a)
	return agenttest.Start(t, a).AwaitServing(t)
}

func request(t *testing.T, id string, in compress.Input) *agentpb.ExecuteRequest {
	t.Helper()
	return agenttest.Request(t, id, "compress_files", in)
}

func run(t *testing.T, r *agenttest.Running, id string, in compress.Input) compress.Output {
	t.Helper()
	return agenttest.Output[compress.Output](t, r.Execute(t, request(t, id, in)))
}

// write makes a file in dir with what is given, and returns its path.
func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// noise does not compress.
func noise(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	return content
}

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// wantResult checks a result against the content of its file.
func wantResult(t *testing.T, got compress.Compressed, dir string, content []byte) {
	t.Helper()
	sum := hashOf(content)
	if got.SHA256 != sum || got.SizeBytes != int64(len(content)) || got.GzipPath != filepath.Join(dir, sum+".gz") {
		t.Errorf("got %+v, want %d bytes with hash %s in %s", got, len(content), sum, dir)
	}
	raw, err := os.ReadFile(got.GzipPath)
	if err != nil || int64(len(raw)) != got.GzipBytes {
		t.Fatalf("%s has %d bytes, %d were told: %v", got.Path, len(raw), got.GzipBytes, err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := io.ReadAll(zip); err != nil || !bytes.Equal(back, content) {
		t.Errorf("%s gives %d bytes back: %v", got.Path, len(back), err)
	}
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestEveryFileIsHashedAndCompressed(t *testing.T) {
	root, dir := t.TempDir(), filepath.Join(t.TempDir(), "results of a run")
	contents := map[string][]byte{
		"empty": {}, "text": bytes.Repeat([]byte("all work and no play\n"), 1000), "noise": noise(100 << 10),
		"large": bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16),
	}
	for name, content := range contents {
		write(t, root, name, content)
	}
	if err := os.Symlink(filepath.Join(root, "text"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	contents["link"] = contents["text"]
	in := compress.Input{
		Root: &root, OutputDir: new((&url.URL{Scheme: "file", Path: dir + "/"}).String()),
		Files: []compress.File{{Path: "large", Size: new(int64(5 << 20))}, {Path: "empty"}, {Path: filepath.Join(root, "text")}, {Path: "link"}, {Path: "noise"}},
	}
	out := run(t, start(t), "all", in)
	if len(out.Files) != len(in.Files) || len(out.Skipped) != 0 || out.Worker != "go" || out.PID != os.Getpid() {
		t.Fatalf("got %+v", out)
	}
	var bytesIn, bytesOut int64
	for i, got := range out.Files {
		if got.Path != in.Files[i].Path {
			t.Errorf("file %d is %q, want %q", i, got.Path, in.Files[i].Path)
		}
		wantResult(t, got, dir, contents[filepath.Base(got.Path)])
		bytesIn += got.SizeBytes
		if got.Path != "link" {
			bytesOut += got.GzipBytes
		}
	}
	if out.BytesIn != bytesIn || out.BytesOut != bytesOut {
		t.Errorf("got %d and %d bytes, want %d and %d", out.BytesIn, out.BytesOut, bytesIn, bytesOut)
	}
	if names := namesIn(t, dir); len(names) != 4 {
		t.Errorf("equal files are not one, or something is left: %v", names)
	}
}

func TestWhatCannotBeReadIsSkipped(t *testing.T) {
	root := t.TempDir()
	write(t, root, "good", []byte("good"))
	want := map[string]string{
		"gone": "no such file", "folder": "is a directory", "dangling": "no such file", "pipe": "not a regular file",
	}
	err := os.Mkdir(filepath.Join(root, "folder"), 0o755)
	if err == nil {
		err = os.Symlink("nowhere", filepath.Join(root, "dangling"))
	}
	if err == nil {
		err = syscall.Mkfifo(filepath.Join(root, "pipe"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 { // root may read everything
		if err := os.Chmod(write(t, root, "secret", nil), 0); err != nil {
			t.Fatal(err)
		}
		want["secret"] = "permission denied"
	}
	in := compress.Input{Root: &root, OutputDir: new(t.TempDir())}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		in.Files = append(in.Files, compress.File{Path: name})
	}
	in.Files = append(in.Files, compress.File{Path: "good"})
	out := run(t, start(t), "skip", in)
	if len(out.Files) != 1 || out.Files[0].Path != "good" || len(out.Skipped) != len(want) {
		t.Fatalf("got %+v", out)
	}
	for _, s := range out.Skipped {
		if !strings.Contains(s.Reason, want[s.Path]) {
			t.Errorf("%s: got %q, want %q", s.Path, s.Reason, want[s.Path])
		}
	}
	if names := namesIn(t, *in.OutputDir); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
}

func TestDoingItAgainGivesTheSameAndWritesNothing(t *testing.T) {
	r, root := start(t), t.TempDir()
	write(t, root, "a", noise(64<<10))
	first := run(t, r, "1", compress.Input{Root: &root, Files: []compress.File{{Path: "a"}}, OutputDir: &root})
	before, err := os.Stat(first.Files[0].GzipPath)
	if err != nil {
		t.Fatal(err)
	}
	again := run(t, r, "2", compress.Input{Root: &root, Files: []compress.File{{Path: "a"}}, OutputDir: &root, Level: new(1)})
	after, err := os.Stat(first.Files[0].GzipPath)
	if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("it was written again: %v", err)
	}
	if !slices.Equal(first.Files, again.Files) || len(namesIn(t, root)) != 2 {
		t.Errorf("got %+v, then %+v", first, again)
	}
}

func TestLevelsMakeADifference(t *testing.T) {
	r, root := start(t), t.TempDir()
	var text bytes.Buffer
	for i := range 5_000 {
		fmt.Fprintf(&text, "line %d of %d\n", i, i*i)
	}
	write(t, root, "text", text.Bytes())
	size := map[int]int64{}
	for _, level := range []int{1, 6, 9} {
		out := run(t, r, fmt.Sprint(level), compress.Input{
			Root: &root, Files: []compress.File{{Path: "text"}}, OutputDir: new(t.TempDir()), Level: &level,
		})
		size[level] = out.BytesOut
	}
	if size[1] <= size[6] || size[1] <= size[9] {
		t.Errorf("got %v", size)
	}
}

func TestResultsGoToTheOutputFolderOfTheRun(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	req := request(t, "o", compress.Input{Files: []compress.File{{Path: write(t, root, "a", []byte("a"))}}})
	req.OutputPrefix = "file://" + dir + "/"
	out := agenttest.Output[compress.Output](t, start(t).Execute(t, req))
	wantResult(t, out.Files[0], dir, []byte("a"))
}

func TestWhatIsNullIsAsIfItWereNotGiven(t *testing.T) {
	file := write(t, t.TempDir(), "a", []byte("a"))
	req := agenttest.Request(t, "n", "compress_files", map[string]any{
		"root": nil, "output_dir": nil, "level": nil, "files": []any{map[string]any{"path": file, "size": nil}},
	})
	if out := agenttest.Output[compress.Output](t, start(t).Execute(t, req)); len(out.Files) != 1 {
		t.Errorf("got %+v", out)
	}
}

func TestProgressIsToldPerFile(t *testing.T) {
	root := t.TempDir()
	in := compress.Input{Root: &root, OutputDir: new(t.TempDir())}
	for _, name := range []string{"a", "b", "c"} {
		write(t, root, name, []byte(name))
		in.Files = append(in.Files, compress.File{Path: name})
	}
	var got []string
	for _, m := range start(t).Execute(t, request(t, "p", in)) {
		if p := m.GetProgress(); p != nil {
			got = append(got, fmt.Sprintf("%s %d/%d %s", p.GetMessage(), p.GetDone(), p.GetTotal(), p.GetUnit()))
		}
	}
	if want := []string{"a 0/3 files", "b 1/3 files", "c 2/3 files", " 3/3 files"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCancelBetweenTwoPiecesLeavesNothingBehind(t *testing.T) {
	r, dir := start(t), t.TempDir()
	large := filepath.Join(t.TempDir(), "large")
	f, err := os.Create(large)
	if err == nil {
		err = f.Truncate(1 << 40) // a hole that takes hours to read
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Skipf("no large sparse file: %v", err)
	}
	stream, err := r.Client.Execute(agenttest.Context(t), request(t, "c", compress.Input{
		Files: []compress.File{{Path: large}}, OutputDir: &dir,
	}))
	if err != nil {
		t.Fatal(err)
	}
	for ctx := agenttest.Context(t); len(namesIn(t, dir)) == 0 && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	runtime.GC()
	var m runtime.MemStats
	if runtime.ReadMemStats(&m); m.HeapInuse > 64<<20 {
		t.Errorf("%d MiB are held", m.HeapInuse>>20)
	}
	target := &agentpb.CancelRequest_ExecutionId{ExecutionId: "c"}
	if _, err := r.Client.Cancel(agenttest.Context(t), &agentpb.CancelRequest{Target: target}); err != nil {
		t.Fatal(err)
	}
	if failure := agenttest.Failure(t, agenttest.Drain(t, stream)); failure.GetCode() != "CANCELLED" {
		t.Errorf("got %v", failure)
	}
	if names := namesIn(t, dir); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

func TestInputsThatCannotBeDoneFail(t *testing.T) {
	r := start(t)
	file := write(t, t.TempDir(), "file", nil)
	for name, c := range map[string]struct {
		in   compress.Input
		code string
		says string
	}{
		"level":    {compress.Input{Files: []compress.File{}, Level: new(10)}, "INVALID_INPUT", `"level"`},
		"path":     {compress.Input{Files: []compress.File{{}}}, "INVALID_INPUT", `"files[0].path"`},
		"root":     {compress.Input{Files: []compress.File{}, Root: new("file://elsewhere/x")}, "INVALID_INPUT", `"root"`},
		"output":   {compress.Input{Files: []compress.File{}, OutputDir: new("file:x")}, "INVALID_INPUT", `"output_dir"`},
		"far away": {compress.Input{Files: []compress.File{}, OutputDir: new("s3://bucket/x")}, "INVALID_INPUT", `"output_dir"`},
		"no place": {compress.Input{Files: []compress.File{}, OutputDir: new(filepath.Join(file, "x"))}, "OUTPUT_NOT_WRITABLE", file},
	} {
		failure := agenttest.Failure(t, r.Execute(t, request(t, name, c.in)))
		if failure.GetCode() != c.code || !strings.Contains(failure.GetMessage(), c.says) {
			t.Errorf("%s: got %v", name, failure)
		}
	}
}
