package noaagent

import (
	"fmt"
	"log/slog"
	"maps"
	"mime"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// filePath is the path that a file:// URI of this machine names.
func filePath(uri string) (string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", err
	}
	if u.Scheme != "file" || (u.Host != "" && u.Host != "localhost") || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("%q is not of the form file:///absolute/path, which is all that this agent reaches", uri)
	}
	return filepath.Clean(u.Path), nil
}

// LocalPath is the absolute path that an input names: by a file:/// URI of this machine, or as a path.
func LocalPath(named string) (string, error) {
	if strings.HasPrefix(named, "file:") || strings.Contains(named, "://") {
		return filePath(named)
	}
	return filepath.Abs(named)
}

// makeDir creates the folder that a file:// URI names, if need be, and returns its path.
func makeDir(uri string) (string, error) {
	path, err := filePath(uri)
	if err != nil {
		return "", err
	}
	return path, os.MkdirAll(path, 0o755)
}

// tempDirs has a temporary folder for each run that asked for one.
type tempDirs struct {
	mu    sync.Mutex
	byRun map[string]string
}

func (d *tempDirs) of(runID string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if path, ok := d.byRun[runID]; ok {
		return path, nil
	}
	path, err := os.MkdirTemp("", "noa-output-")
	if err != nil {
		return "", err
	}
	if d.byRun == nil {
		d.byRun = map[string]string{}
	}
	d.byRun[runID] = path
	return path, nil
}

// remove comes last in a release: what is held may still write to the folder. It returns how many folders there were.
func (d *tempDirs) remove(runID string) (removed int) {
	d.mu.Lock()
	path, ok := d.byRun[runID]
	delete(d.byRun, runID)
	d.mu.Unlock()
	if !ok {
		return 0
	}
	if err := os.RemoveAll(path); err != nil {
		slog.Error("a temporary output folder was not removed", "run", runID, "error", err)
	}
	return 1
}

// runs returns the runs that have a temporary folder.
func (d *tempDirs) runs() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.byRun))
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json"
}

func quoted(s string) string { return strconv.Quote(short(s)) }
