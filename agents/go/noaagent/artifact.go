package noaagent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// ArtifactRef names bytes in the artifact store. In JSON it is {"$artifact": {...}}, in inputs and outputs alike.
type ArtifactRef struct {
	URI         string `json:"uri"`
	SizeBytes   uint64 `json:"size_bytes"`
	SHA256      string `json:"sha256"`
	ContentType string `json:"content_type"`
}

type plainRef ArtifactRef

// MarshalJSON writes {"$artifact": {...}}.
func (r ArtifactRef) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]plainRef{"$artifact": plainRef(r)})
}

// UnmarshalJSON reads {"$artifact": {...}}.
func (r *ArtifactRef) UnmarshalJSON(raw []byte) error {
	var wrapped struct {
		Ref *plainRef `json:"$artifact"`
	}
	if err := json.Unmarshal(raw, &wrapped); err != nil {
		return err
	}
	if wrapped.Ref != nil {
		*r = ArtifactRef(*wrapped.Ref)
	}
	return nil
}

// JSONSchema is the schema of {"$artifact": {...}}.
func (ArtifactRef) JSONSchema() Schema {
	return Schema{"type": "object", "required": []any{"$artifact"}, "properties": Schema{"$artifact": Schema{
		"type": "object", "required": []any{"uri", "size_bytes", "sha256"},
		"properties": Schema{
			"uri": Schema{"type": "string"}, "size_bytes": Schema{"type": "integer", "minimum": json.Number("0")},
			"sha256": Schema{"type": "string", "pattern": "^[0-9a-f]{64}$"}, "content_type": Schema{"type": "string"},
		},
	}}}
}

// Artifacts creates and reads artifacts: files that are named by what is in them.
type Artifacts struct {
	prefix string
	ctx    context.Context // of the execution that writes; nil for one that only reads
}

// Create copies content into the store and returns its reference once it is on disk. The same content twice is one
// artifact. On an error nothing is left behind; the end of the execution is one.
func (s Artifacts) Create(contentType string, content io.Reader) (ref ArtifactRef, err error) {
	if s.prefix == "" {
		return ref, errors.New("create artifact: the engine named no artifact_prefix")
	}
	dir, err := makeDir(s.prefix)
	if err != nil {
		return ref, fmt.Errorf("create artifact: %w", err)
	}
	temporary := filepath.Join(dir, ".tmp-"+rand.Text())
	defer func() { _ = os.Remove(temporary) }() // gone already once it is renamed
	if s.ctx != nil {
		content = ContextReader(s.ctx, content)
	}
	size, sum, err := writeSynced(temporary, content)
	if err != nil {
		return ref, fmt.Errorf("create artifact: %w", err)
	}
	target := filepath.Join(dir, sum[:2], sum)
	if err := putInPlace(temporary, target); err != nil {
		return ref, fmt.Errorf("create artifact: %w", err)
	}
	return ArtifactRef{URI: fileURI(target), SizeBytes: size, SHA256: sum, ContentType: contentType}, nil
}

func writeSynced(path string, content io.Reader) (size uint64, sum string, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return 0, "", err
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), content)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, "", err
	}
	return uint64(n), hex.EncodeToString(hash.Sum(nil)), nil
}

func putInPlace(temporary, target string) error {
	if _, err := os.Lstat(target); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(target)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Rename(temporary, target); err != nil {
		return err
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Open opens an artifact for reading, after checking that it has the size that ref says.
func (s Artifacts) Open(ref ArtifactRef) (io.ReadCloser, error) {
	path, err := filePath(ref.URI)
	if err != nil {
		return nil, fmt.Errorf("open artifact: %w", err)
	}
	info, err := os.Stat(path) // before opening: opening a named pipe would wait for a writer
	if err != nil {
		return nil, fmt.Errorf("open artifact: %w", err)
	}
	if !info.Mode().IsRegular() || uint64(info.Size()) != ref.SizeBytes {
		return nil, fmt.Errorf("open artifact: %s has %d bytes, %d expected", ref.URI, info.Size(), ref.SizeBytes)
	}
	return os.Open(path)
}

// Read reads a whole artifact and checks its hash too.
func (s Artifacts) Read(ref ArtifactRef) ([]byte, error) {
	f, err := s.Open(ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read artifact: %w", err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != ref.SHA256 {
		return nil, fmt.Errorf("read artifact: the content of %s does not have the hash that was expected", ref.URI)
	}
	return content, nil
}

// ContextReader reads from r until ctx is cancelled, and fails with the cause of that then: for copies that end between two
// pieces when their execution does.
func ContextReader(ctx context.Context, r io.Reader) io.Reader { return obedientReader{ctx, r} }

type obedientReader struct {
	ctx context.Context
	r   io.Reader
}

func (o obedientReader) Read(p []byte) (int, error) {
	if o.ctx.Err() != nil {
		return 0, context.Cause(o.ctx)
	}
	return o.r.Read(p)
}

// readInput returns the JSON text of an action's input.
func readInput(p *agentpb.Payload) ([]byte, error) {
	if t := p.GetContentType(); t != "" && !isJSON(t) {
		return nil, Fail{Code: CodeInvalidInput, Message: "field \"input\" must be application/json, not " + quoted(t)}
	}
	switch v := p.GetValue().(type) {
	case *agentpb.Payload_Inline:
		switch {
		case len(v.Inline) > maxInline:
			return nil, Failf(CodePayloadTooLarge,
				"field \"input\" has %d bytes inline; above %d it must be an artifact", len(v.Inline), maxInline)
		case len(v.Inline) == 0: // libraries write an empty oneof and an unset one alike
			return []byte("{}"), nil
		}
		return v.Inline, nil
	case *agentpb.Payload_Artifact:
		raw, err := Artifacts{}.Read(ArtifactRef{
			URI: v.Artifact.GetUri(), SizeBytes: v.Artifact.GetSizeBytes(), SHA256: v.Artifact.GetSha256(),
		})
		if err != nil {
			return nil, Failf(CodeInvalidInput, "field \"input\" cannot be loaded: %s", err)
		}
		return raw, nil
	default:
		return []byte("{}"), nil
	}
}

// document is JSON text whose size is known before it is read.
type document struct {
	size int64
	text io.Reader
}

// payloadOf puts JSON text into a message, or into the store where it is too large for one.
func payloadOf(d document, store Artifacts) (*agentpb.Payload, error) {
	const contentType = "application/json"
	if d.size <= maxInline {
		raw, err := io.ReadAll(d.text)
		if err != nil {
			return nil, fmt.Errorf("write the output: %w", err)
		}
		return &agentpb.Payload{ContentType: contentType, Value: &agentpb.Payload_Inline{Inline: raw}}, nil
	}
	ref, err := store.Create(contentType, d.text)
	if err != nil {
		return nil, Failf(CodePayloadTooLarge,
			"the output has %d bytes, above %d it must be an artifact: %s", d.size, maxInline, err)
	}
	return &agentpb.Payload{ContentType: contentType, Value: &agentpb.Payload_Artifact{Artifact: &agentpb.Artifact{
		Uri: ref.URI, SizeBytes: ref.SizeBytes, Sha256: ref.SHA256, ContentType: contentType,
	}}}, nil
}

func fileURI(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
