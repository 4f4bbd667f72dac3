package noaagent

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// FieldError says which field of an input breaks which rule.
type FieldError struct {
	// Field is the path of the field, such as "services[0].ready".
	Field string
	// Problem completes the sentence that Field begins, such as "is required".
	Problem string
}

// Error is the sentence "field ... ...".
func (e *FieldError) Error() string { return fmt.Sprintf("field %q %s", e.Field, e.Problem) }

// check tells the first way in which value, decoded with numbers kept as [json.Number], breaks the schema. It knows
// the keywords that [SchemaOf] writes and no others. Integers in value are rewritten as encoding/json reads them.
func (s Schema) check(value any) error {
	return checker{defs: s["$defs"]}.check(s, value, "")
}

type checker struct{ defs any }

func (c checker) check(s Schema, value any, path string) error {
	if ref, ok := s["$ref"].(string); ok {
		return c.check(c.defs.(Schema)[strings.TrimPrefix(ref, "#/$defs/")].(Schema), value, path)
	}
	if choices, ok := s["anyOf"].([]any); ok {
		if value == nil {
			return nil
		}
		return c.check(choices[0].(Schema), value, path)
	}
	if kind, known := s["type"]; known && !isType(s, kindOf(value)) {
		return broken(path, "must be %s, not %s", wanted(kind), kindOf(value))
	}
	switch v := value.(type) {
	case map[string]any:
		return c.object(s, v, path)
	case []any:
		return c.list(s, v, path)
	case string:
		return checkString(s, v, path)
	case json.Number:
		return checkNumber(s, v, path)
	}
	return nil
}

func (c checker) object(s Schema, value map[string]any, path string) error {
	required, _ := s["required"].([]any)
	for _, name := range required {
		if _, given := value[name.(string)]; !given {
			return broken(join(path, name.(string)), "is required")
		}
	}
	properties, _ := s["properties"].(Schema)
	rest, _ := s["additionalProperties"].(Schema)
	for name, v := range value {
		rule, known := properties[name].(Schema)
		if !known {
			if near := sameLetters(properties, name); near != "" {
				return broken(join(path, name), "is not known. Did you mean %q?", near)
			}
			rule = rest
		}
		if err := c.check(rule, v, join(path, name)); err != nil {
			return err
		}
		value[name] = whole(rule, v)
	}
	return nil
}

// sameLetters finds a property that differs from name in capitals only. It would be taken for the property by
// encoding/json, unchecked.
func sameLetters(properties Schema, name string) string {
	for known := range properties {
		if strings.EqualFold(known, name) {
			return known
		}
	}
	return ""
}

func (c checker) list(s Schema, value []any, path string) error {
	if n, ok := s["minItems"].(json.Number); ok && n.String() != fmt.Sprint(len(value)) {
		return broken(path, "must have %s items, not %d", n, len(value))
	}
	items, _ := s["items"].(Schema)
	for i, v := range value {
		if err := c.check(items, v, fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
		value[i] = whole(items, v)
	}
	return nil
}

func checkString(s Schema, value, path string) error {
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, any(value)) {
		return broken(path, "must be one of %v, not %q", enum, short(value))
	}
	if p, ok := s["pattern"].(string); ok && !compiled(p).MatchString(value) {
		return broken(path, "must match %s, not %q", p, short(value))
	}
	return nil
}

func checkNumber(s Schema, value json.Number, path string) error {
	f, err := value.Float64()
	if err != nil {
		return broken(path, "is too large: %s", short(value.String()))
	}
	if isType(s, "integer") && f != math.Trunc(f) {
		return broken(path, "must be an integer, not %s", short(value.String()))
	}
	if low, ok := s["minimum"].(json.Number); ok && f < number(low) {
		return broken(path, "must be at least %s, not %s", low, short(value.String()))
	}
	if high, ok := s["maximum"].(json.Number); ok && f > number(high) {
		return broken(path, "must be at most %s, not %s", high, short(value.String()))
	}
	return nil
}

// whole writes an integer without a fraction or an exponent: 1.0 and 1e3 are integers to JSON Schema, but not to
// encoding/json. What a float64 does not hold exactly stays as it is.
func whole(s Schema, value any) any {
	const exact = 1 << 53
	n, ok := value.(json.Number)
	if !ok || !isType(s, "integer") || !strings.ContainsAny(n.String(), ".eE") {
		return value
	}
	if f := number(n); math.Abs(f) <= exact {
		return json.Number(strconv.FormatInt(int64(f), 10))
	}
	return value
}

// isType tells whether the schema lets a value be of the JSON type name.
func isType(s Schema, name string) bool {
	fits := func(t any) bool { return t == name || (t == "integer" && name == "number") }
	if list, ok := s["type"].([]any); ok {
		return slices.ContainsFunc(list, fits)
	}
	return fits(s["type"])
}

func kindOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		return "number"
	case []any:
		return "array"
	default:
		return "object"
	}
}

func wanted(kind any) string {
	if list, ok := kind.([]any); ok {
		return fmt.Sprintf("%v or %v", list[0], list[1])
	}
	return fmt.Sprint(kind)
}

var patterns sync.Map

func compiled(pattern string) *regexp.Regexp {
	if re, ok := patterns.Load(pattern); ok {
		return re.(*regexp.Regexp)
	}
	re := regexp.MustCompile(pattern)
	patterns.Store(pattern, re)
	return re
}

func number(n json.Number) float64 { f, _ := n.Float64(); return f }

func broken(path, format string, args ...any) error {
	if path == "" {
		path = "input"
	}
	return &FieldError{Field: path, Problem: fmt.Sprintf(format, args...)}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// short keeps a value that is quoted in a message from filling it.
func short(s string) string {
	if len(s) <= 100 {
		return s
	}
	cut := 100
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
