package noaagent

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"
)

// Schema is a JSON Schema (2020-12) as [encoding/json] would decode it.
//
// [SchemaOf] derives one from a type the way encoding/json encodes it. A struct field is required unless its json
// tag has omitempty or omitzero. More is said with the tags `desc:"text"`, `enum:"a,b"` and `pattern:"regexp"` on
// strings, and `min:"0"` and `max:"1"` on numbers. A type may give its own with a method JSONSchema() Schema.
type Schema map[string]any

// SchemaOf derives the schema of t. A struct type that contains itself is referred to by "$defs".
func SchemaOf(t reflect.Type) Schema {
	b := schemaBuilder{open: map[reflect.Type]string{}, defs: Schema{}}
	s := b.of(t)
	if len(b.defs) > 0 {
		if ref, ok := s["$ref"].(string); ok { // the root contains itself: say what it is at the top
			s = cloned(b.defs[strings.TrimPrefix(ref, "#/$defs/")].(Schema))
		}
		s["$defs"] = b.defs
	}
	return s
}

type schemaBuilder struct {
	open map[reflect.Type]string // struct types being described; the value is set once one refers to itself
	defs Schema
}

type schemer interface{ JSONSchema() Schema }

func (b *schemaBuilder) of(t reflect.Type) Schema {
	if own, ok := reflect.New(t).Interface().(schemer); ok && t.Kind() != reflect.Pointer {
		return own.JSONSchema()
	}
	if t.Kind() == reflect.Pointer {
		return nullable(b.of(t.Elem()))
	}
	if s, ok := encodedByItself(t); ok {
		return s
	}
	switch t.Kind() {
	case reflect.Bool:
		return Schema{"type": "boolean"}
	case reflect.String:
		return Schema{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return Schema{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return Schema{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return Schema{"type": "integer", "minimum": json.Number("0")}
	case reflect.Slice, reflect.Array:
		return b.list(t)
	case reflect.Map:
		return nullable(Schema{"type": "object", "additionalProperties": b.of(t.Elem())})
	case reflect.Struct:
		return b.structure(t)
	default:
		return Schema{}
	}
}

var (
	timeType       = reflect.TypeFor[time.Time]()
	jsonMarshaler  = reflect.TypeFor[json.Marshaler]()
	jsonDecoder    = reflect.TypeFor[json.Unmarshaler]()
	textMarshaller = reflect.TypeFor[encoding.TextMarshaler]()
)

func encodedByItself(t reflect.Type) (Schema, bool) {
	p := reflect.PointerTo(t)
	switch {
	case t == timeType:
		return Schema{"type": "string", "format": "date-time"}, true
	case p.Implements(jsonMarshaler), p.Implements(jsonDecoder):
		return Schema{}, true
	case p.Implements(textMarshaller):
		return Schema{"type": "string"}, true
	}
	return nil, false
}

func (b *schemaBuilder) list(t reflect.Type) Schema {
	if t.Kind() == reflect.Array {
		n := json.Number(strconv.Itoa(t.Len()))
		return Schema{"type": "array", "items": b.of(t.Elem()), "minItems": n, "maxItems": n}
	}
	if t.Elem().Kind() == reflect.Uint8 {
		return nullable(Schema{"type": "string", "contentEncoding": "base64"})
	}
	return nullable(Schema{"type": "array", "items": b.of(t.Elem())})
}

func (b *schemaBuilder) structure(t reflect.Type) Schema {
	if def, open := b.open[t]; open {
		if def == "" {
			def = fmt.Sprintf("%s%d", t.Name(), len(b.defs))
			b.open[t], b.defs[def] = def, Schema{}
		}
		return Schema{"$ref": "#/$defs/" + def}
	}
	b.open[t] = ""
	properties, required := Schema{}, []any{}
	b.fields(t, properties, &required)
	s := Schema{"type": "object", "properties": properties}
	if len(required) > 0 {
		s["required"] = required
	}
	def := b.open[t]
	delete(b.open, t)
	if def == "" {
		return s
	}
	b.defs[def] = s
	return Schema{"$ref": "#/$defs/" + def}
}

func (b *schemaBuilder) fields(t reflect.Type, properties Schema, required *[]any) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if inner := indirect(f.Type); f.Anonymous && name == "" && inner.Kind() == reflect.Struct {
			b.fields(inner, properties, required)
			continue
		}
		if !f.IsExported() || (name == "-" && options == "") {
			continue
		}
		if name == "" {
			name = f.Name
		}
		s := b.of(f.Type)
		if hasOption(options, "string") {
			s = Schema{"type": "string"}
		}
		properties[name] = annotate(s, f.Tag)
		if !hasOption(options, "omitempty") && !hasOption(options, "omitzero") {
			*required = append(*required, name)
		}
	}
}

func annotate(s Schema, tag reflect.StructTag) Schema {
	if text := tag.Get("desc"); text != "" {
		s["description"] = text
	}
	if values := tag.Get("enum"); values != "" {
		var list []any
		for v := range strings.SplitSeq(values, ",") {
			list = append(list, v)
		}
		s["enum"] = list
	}
	if p := tag.Get("pattern"); p != "" {
		s["pattern"] = compiled(p).String()
	}
	for key, name := range map[string]string{"min": "minimum", "max": "maximum"} {
		if v := tag.Get(key); v != "" {
			s[name] = json.Number(v)
		}
	}
	return s
}

// nullable lets s be null as well: encoding/json writes nil slices, maps and pointers so.
func nullable(s Schema) Schema {
	if len(s) == 0 {
		return s
	}
	if name, ok := s["type"].(string); ok {
		s["type"] = []any{name, "null"}
		return s
	}
	if _, ok := s["type"]; ok {
		return s
	}
	return Schema{"anyOf": []any{s, Schema{"type": "null"}}}
}

func indirect(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func hasOption(options, want string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == want {
			return true
		}
	}
	return false
}

func cloned(s Schema) Schema {
	c := Schema{}
	for k, v := range s {
		c[k] = v
	}
	return c
}

func toStruct(s Schema) *structpb.Struct {
	raw, err := json.Marshal(s)
	out := &structpb.Struct{}
	if err == nil {
		err = out.UnmarshalJSON(raw)
	}
	if err != nil {
		panic(fmt.Sprintf("noaagent: a schema cannot be written as JSON: %v", err))
	}
	return out
}
