package coverage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ConfigName is the file at the root of a repository that configures the check.
const ConfigName = ".lockstep.yaml"

// AnnotationIgnore on an object silences findings about it: "LS001: reason", more of them separated by semicolons or new lines.
const AnnotationIgnore = "lockstep.dev/ignore"

// maxConfig bounds a configuration; it comes from whoever opens a pull request.
const maxConfig = 1 << 20

// Config is what ConfigName says. The zero value is that of a repository without it.
type Config struct {
	// Rules are severities, by the IDs of rules.
	Rules map[string]Severity
	// Ignore are opt-outs.
	Ignore []Ignore
	// Cluster is what the cluster has without this repository.
	Cluster Cluster
}

// Ignore is an opt-out: somebody has looked at a finding and takes responsibility for it.
type Ignore struct {
	// Rule is an ID.
	Rule string
	// Kind, Namespace and Name are of the object, or of what deploys it; empty fits any, and at least one is there.
	Kind, Namespace, Name string
	// Reason is always there.
	Reason string
	// Expires is the first moment at which it does not hold any more; zero if it always does.
	Expires time.Time
	// Line is where it stands in the file.
	Line int
}

// Cluster names what the cluster has without this repository.
type Cluster struct {
	// StorageClasses are names; nil if it is not known which there are.
	StorageClasses []string
	// Kinds are "Kind.group"; "*.group" is each of a group. Nil if it is not known which there are.
	Kinds []string
}

// ConfigError says what is wrong with a configuration.
type ConfigError struct {
	// File has it; empty for ConfigName.
	File string
	// Line counts from 1; 0 if it is not known.
	Line int
	Err  error
}

func (e *ConfigError) Error() string {
	file := cmp.Or(e.File, ConfigName)
	if e.Line == 0 {
		return fmt.Sprintf("%s: %v", file, e.Err)
	}
	return fmt.Sprintf("%s:%d: %v", file, e.Line, e.Err)
}

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// ParseConfig reads a configuration. Errors are of type ConfigError. What it does not know it refuses: an opt-out that is misspelt
// must not be overlooked.
func ParseConfig(data []byte) (Config, error) {
	if len(data) > maxConfig {
		return Config{}, &ConfigError{Err: fmt.Errorf("it is larger than %d KiB", maxConfig>>10)}
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := d.Decode(&document); errors.Is(err, io.EOF) {
		return Config{}, nil
	} else if err != nil {
		return Config{}, &ConfigError{Err: err}
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, &ConfigError{Err: errors.New("it has more than one document")}
	}
	if len(document.Content) != 1 {
		return Config{}, nil
	}
	var c Config
	err := fields(document.Content[0], map[string]func(*yaml.Node) error{
		"rules": c.readRules,
		"ignore": func(n *yaml.Node) error {
			return items(n, func(item *yaml.Node) error {
				i, err := readIgnore(item)
				c.Ignore = append(c.Ignore, i)
				return err
			})
		},
		"cluster": func(n *yaml.Node) error {
			return fields(n, map[string]func(*yaml.Node) error{
				"storageClasses": func(n *yaml.Node) error { return texts(n, &c.Cluster.StorageClasses) },
				"kinds":          func(n *yaml.Node) error { return texts(n, &c.Cluster.Kinds) },
			})
		},
	})
	if err != nil {
		return Config{}, err
	}
	return c, nil
}

func (c *Config) readRules(n *yaml.Node) error {
	if err := is(n, yaml.MappingNode, "a mapping from rules to severities"); err != nil {
		return err
	}
	c.Rules = map[string]Severity{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		var id, severity string
		if err := text(n.Content[i], &id); err != nil {
			return err
		}
		if err := text(n.Content[i+1], &severity); err != nil {
			return err
		}
		rule, ok := FindRule(id)
		if !ok {
			return wrong(n.Content[i], "there is no rule %q", id)
		}
		if Severity(severity).rank() < 0 {
			return wrong(n.Content[i+1], "the severity %q of %s is none of error, warning, note and off", severity, rule.ID)
		}
		if _, twice := c.Rules[rule.ID]; twice {
			return wrong(n.Content[i], "%s stands twice", rule.ID)
		}
		c.Rules[rule.ID] = Severity(severity)
	}
	return nil
}

func readIgnore(n *yaml.Node) (Ignore, error) {
	i := Ignore{Line: n.Line}
	into := func(s *string) func(*yaml.Node) error {
		return func(n *yaml.Node) error { return text(n, s) }
	}
	err := fields(n, map[string]func(*yaml.Node) error{
		"rule": func(n *yaml.Node) error {
			var id string
			if err := text(n, &id); err != nil {
				return err
			}
			rule, ok := FindRule(id)
			if !ok {
				return wrong(n, "there is no rule %q", id)
			}
			i.Rule = rule.ID
			return nil
		},
		"kind": into(&i.Kind), "namespace": into(&i.Namespace), "name": into(&i.Name), "reason": into(&i.Reason),
		"expires": func(n *yaml.Node) error {
			var date string
			if err := text(n, &date); err != nil {
				return err
			}
			day, err := time.Parse(time.DateOnly, date)
			if err != nil {
				return wrong(n, "expires is %q, and not a date such as 2027-01-31", date)
			}
			i.Expires = day.AddDate(0, 0, 1) // the whole day still counts
			return nil
		},
	})
	switch {
	case err != nil:
		return i, err
	case i.Rule == "":
		return i, wrong(n, "an opt-out names its rule")
	case strings.TrimSpace(i.Reason) == "":
		return i, wrong(n, "the opt-out of %s gives no reason", i.Rule)
	case i.Kind == "" && i.Namespace == "" && i.Name == "":
		return i, wrong(n, "the opt-out of %s names no object (kind, namespace, name); to turn a rule off, write it under rules", i.Rule)
	}
	return i, nil
}

func wrong(n *yaml.Node, format string, args ...any) error {
	return &ConfigError{Line: n.Line, Err: fmt.Errorf(format, args...)}
}

func is(n *yaml.Node, kind yaml.Kind, what string) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return wrong(n, "anchors and aliases are not supported here")
	}
	if n.Kind != kind {
		return wrong(n, "there must be %s here", what)
	}
	return nil
}

// fields reads a mapping whose keys are known.
func fields(n *yaml.Node, known map[string]func(*yaml.Node) error) error {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if err := is(n, yaml.MappingNode, "a mapping"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		var key string
		if err := text(n.Content[i], &key); err != nil {
			return err
		}
		read := known[key]
		switch {
		case read == nil:
			var names []string
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			return wrong(n.Content[i], "there is no field %q here; there are %s", key, strings.Join(names, ", "))
		case seen[key]:
			return wrong(n.Content[i], "the field %q stands twice", key)
		}
		seen[key] = true
		if value := n.Content[i+1]; value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
			continue
		}
		if err := read(n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func items(n *yaml.Node, read func(*yaml.Node) error) error {
	if err := is(n, yaml.SequenceNode, "a list"); err != nil {
		return err
	}
	for _, item := range n.Content {
		if err := read(item); err != nil {
			return err
		}
	}
	return nil
}

func texts(n *yaml.Node, into *[]string) error {
	*into = []string{}
	return items(n, func(item *yaml.Node) error {
		var s string
		err := text(item, &s)
		*into = append(*into, s)
		return err
	})
}

func text(n *yaml.Node, into *string) error {
	if err := is(n, yaml.ScalarNode, "a text"); err != nil {
		return err
	}
	*into = n.Value
	return nil
}
