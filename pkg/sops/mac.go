package sops

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

const (
	// metadataField holds what SOPS says of a document.
	metadataField = "sops"
	// maxNodes bounds what is looked at of a file, whatever its aliases stand for.
	maxNodes = 1 << 20
	// maxDepth bounds how deep values lie in one another: an alias may stand for what it stands in.
	maxDepth = 1000
)

// onlyEncrypted begins a MAC that covers encrypted values alone, so that it is never one that covers all.
var onlyEncrypted = []byte{
	0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b,
	0x0b, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
}

// ErrMAC is wrapped when a file is not as it was when it was encrypted: what stands in clear was changed, or values were added, removed
// or put elsewhere.
var ErrMAC = errors.New("has another MAC than it was encrypted with")

// ErrUnchecked is wrapped when a MAC covers values that are chosen by comments, which is not known here.
var ErrUnchecked = errors.New("has a MAC that cannot be checked here, because comments say what it covers")

// Verify checks the MAC of what is encrypted in a file, YAML or JSON, as it stands in the commit: SHA-512 over all values in their order,
// encrypted with the data key and bound to the time of the last change. A file without anything encrypted, or that none of the keys
// opens, passes: Decrypt has its own words for that. No error holds a value.
func (k Keys) Verify(file []byte) error {
	if !bytes.Contains(file, []byte(metadataField)) {
		return nil
	}
	var together []*yaml.Node
	before := ""
	for d := yaml.NewDecoder(bytes.NewReader(file)); ; {
		var document yaml.Node
		err := d.Decode(&document)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil // it is no YAML, and whoever renders the file says so
		}
		mac := ""
		if err == nil {
			mac = scalar(child(metadataOf(&document), "mac"))
		}
		// Documents that were encrypted as one file have one MAC, which each of them repeats.
		if mac != before || err != nil {
			if err := k.verify(together); err != nil {
				return err
			}
			together = nil
		}
		if err != nil {
			return nil
		}
		if before = mac; metadataOf(&document) != nil {
			together = append(together, &document)
		}
	}
}

func (k Keys) verify(documents []*yaml.Node) error {
	if len(documents) == 0 {
		return nil
	}
	m, err := k.readMetadata(metadataOf(documents[0]))
	if errors.Is(err, ErrKey) || errors.Is(err, ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	c := check{metadata: m, hash: sha512.New()}
	if m.OnlyEncrypted {
		c.hash.Write(onlyEncrypted)
	}
	for _, d := range documents {
		if err := c.add(d, nil); err != nil {
			return err
		}
	}
	sealedMAC := sealed.FindStringSubmatch(m.MAC)
	if sealedMAC == nil {
		return ErrMAC
	}
	stated, err := openBound(m.block, sealedMAC, m.changed)
	if text, ok := stated.(string); err != nil || !ok || !hmac.Equal([]byte(text), fmt.Appendf(nil, "%X", c.hash.Sum(nil))) {
		return ErrMAC
	}
	return nil
}

// metadata is what SOPS says of a document, as far as its MAC is concerned.
type metadata struct {
	MAC               string `json:"mac"`
	LastModified      string `json:"lastmodified"`
	OnlyEncrypted     bool   `json:"mac_only_encrypted"`
	UnencryptedSuffix string `json:"unencrypted_suffix"`
	EncryptedSuffix   string `json:"encrypted_suffix"`
	UnencryptedRegex  string `json:"unencrypted_regex"`
	EncryptedRegex    string `json:"encrypted_regex"`
	// By comments, which the objects that Kubernetes knows do not have.
	UnencryptedComments string `json:"unencrypted_comment_regex"`
	EncryptedComments   string `json:"encrypted_comment_regex"`

	block   cipher.Block
	changed string
	// matches says that the rule fits one field of a place, inverted that it then stays in clear.
	matches  func(field string) bool
	inverted bool
}

func (k Keys) readMetadata(node *yaml.Node) (*metadata, error) {
	text, err := yaml.Marshal(node)
	if err != nil {
		return nil, ErrDamaged
	}
	var m metadata
	var all map[string]any
	if sigsyaml.Unmarshal(text, &m) != nil || sigsyaml.Unmarshal(text, &all) != nil {
		return nil, ErrDamaged
	}
	key, err := k.dataKey(all)
	if err != nil {
		return nil, err
	}
	if m.block, err = aes.NewCipher(key); err != nil {
		return nil, ErrDamaged
	}
	at, err := time.Parse(time.RFC3339, m.LastModified)
	if err != nil {
		return nil, ErrDamaged
	}
	m.changed = at.Format(time.RFC3339)
	return &m, m.readRule()
}

// readRule reads which values are encrypted. There is at most one rule; without any it is the suffix of those that are not.
func (m *metadata) readRule() error {
	rules := 0
	for _, rule := range []struct {
		text             string
		inverted, suffix bool
	}{
		{m.UnencryptedSuffix, true, true}, {m.EncryptedSuffix, false, true}, {m.UnencryptedRegex, true, false}, {m.EncryptedRegex, false, false},
	} {
		if rule.text == "" {
			continue
		}
		rules++
		m.inverted = rule.inverted
		if rule.suffix {
			m.matches = func(field string) bool { return strings.HasSuffix(field, rule.text) }
			continue
		}
		pattern, err := regexp.Compile(rule.text)
		if err != nil {
			return ErrDamaged
		}
		m.matches = pattern.MatchString
	}
	byComment := m.UnencryptedComments != "" || m.EncryptedComments != ""
	switch {
	case rules > 1 || rules > 0 && byComment:
		return ErrDamaged
	case byComment && m.OnlyEncrypted:
		return ErrUnchecked
	case rules == 0 && !byComment:
		m.inverted, m.matches = true, func(field string) bool { return strings.HasSuffix(field, "_unencrypted") }
	}
	return nil
}

// check goes through the values in their order.
type check struct {
	*metadata
	hash         hash.Hash
	nodes, depth int
}

func (c *check) add(node *yaml.Node, path []string) error {
	c.nodes++
	c.depth++
	defer func() { c.depth-- }()
	if c.nodes > maxNodes || c.depth > maxDepth {
		return fmt.Errorf("holds more than %d values, or deeper than %d", maxNodes, maxDepth)
	}
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			field := node.Content[i].Value
			if len(path) == 0 && field == metadataField {
				continue
			}
			if err := c.add(node.Content[i+1], append(path[:len(path):len(path)], field)); err != nil {
				return err
			}
		}
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, item := range node.Content {
			if err := c.add(item, path); err != nil {
				return err
			}
		}
	case yaml.AliasNode:
		return c.add(node.Alias, path)
	case yaml.ScalarNode:
		return c.addValue(node, path)
	}
	return nil
}

func (c *check) addValue(node *yaml.Node, path []string) error {
	damaged := fmt.Errorf("the value of %s %w", strings.Join(path, "."), ErrDamaged)
	var value any
	if err := node.Decode(&value); err != nil {
		return damaged
	}
	text, _ := value.(string)
	parts := sealed.FindStringSubmatch(text)
	encrypted := parts != nil
	if c.matches != nil {
		encrypted = c.inverted
		for _, field := range path {
			if c.matches(field) {
				encrypted = !c.inverted
				break
			}
		}
	}
	switch {
	case value == nil, value == "": // never encrypted, and of no length
		return nil
	case encrypted && parts == nil:
		return damaged // somebody put a value in clear where those are encrypted
	case encrypted:
		opened, err := openValue(c.block, parts, path)
		if err != nil {
			return err
		}
		value = opened
	case c.OnlyEncrypted:
		return nil
	}
	_, err := c.hash.Write(plainBytes(value))
	return err
}

// plainBytes is a value as the MAC has it.
func plainBytes(value any) []byte {
	switch v := value.(type) {
	case bool:
		if v {
			return []byte("True")
		}
		return []byte("False")
	case float64:
		return strconv.AppendFloat(nil, v, 'f', -1, 64)
	case time.Time:
		text, _ := v.MarshalText() // which fails for years that YAML cannot write
		return text
	}
	return fmt.Append(nil, value)
}

// metadataOf is what SOPS says of a document; nil if it says nothing.
func metadataOf(document *yaml.Node) *yaml.Node {
	if document == nil || len(document.Content) == 0 {
		return nil
	}
	m := child(document.Content[0], metadataField)
	if child(m, "mac") == nil {
		return nil
	}
	return m
}

func child(node *yaml.Node, field string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == field {
			return node.Content[i+1]
		}
	}
	return nil
}

func scalar(node *yaml.Node) string {
	if node == nil {
		return ""
	}
	return node.Value
}
