package sops

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// vector is a file of testdata: encrypted by the library of SOPS 3.11 for the key beside it.
func vector(t *testing.T, name string) (Keys, string) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join("testdata", "key.txt"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseKeys(map[string][]byte{"test.agekey": key})
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return keys, string(file)
}

// TestVerify takes what SOPS itself wrote, by each of its rules, and refuses it with any change, whether the changed value was encrypted or not.
func TestVerify(t *testing.T) {
	swap := func(a, b string) func(string) string {
		return func(file string) string { return strings.Replace(file, a, b, 1) }
	}
	drop := func(line string) func(string) string {
		return func(file string) string { return regexp.MustCompile(`(?m)^`+line+`.*\n`).ReplaceAllString(file, "") }
	}
	same := func(file string) string { return file }
	for name, tt := range map[string]struct {
		file   string
		change func(string) string
		want   error
	}{
		"by regex":                {"regex", same, nil},
		"all but some":            {"all", same, nil},
		"by suffix":               {"suffix", same, nil},
		"by encrypted suffix":     {"encryptedSuffix", same, nil},
		"only what is sealed":     {"macOnly", same, nil},
		"by comment":              {"comment", same, nil},
		"no file of SOPS":         {"regex", func(string) string { return "kind: sops\n---\nsops: {}\n" }, nil},
		"no YAML":                 {"regex", func(string) string { return "sops: [" }, nil},
		"two files in one":        {"regex", func(f string) string { return f + "---\nkind: Plain\n---\n" + f }, nil},
		"as JSON":                 {"encryptedSuffix", asJSON(t), nil},
		"a comment":               {"regex", swap("# a comment", "# another comment"), nil},
		"a name in clear":         {"regex", swap("name: login", "name: logon"), ErrMAC},
		"not of what is sealed":   {"macOnly", swap("name: login", "name: logon"), nil},
		"a value is gone":         {"macOnly", drop("    user:"), ErrMAC},
		"a value more":            {"regex", swap("immutable: true", "immutable: true\nextra: x"), ErrMAC},
		"a value in clear":        {"macOnly", swap("stringData:", "stringData:\n    extra: x"), ErrDamaged},
		"another order":           {"all", swap("\nimmutable:", "\nzzz: \"\"\nimmutable:"), nil},
		"another order of values": {"regex", swap("    name: login\n    namespace: shop", "    namespace: shop\n    name: login"), ErrMAC},
		"a document is gone":      {"regex", func(f string) string { return f[:strings.Index(f, "\n---\n")+1] }, ErrMAC},
		"another time":            {"regex", swap("lastmodified: \"2026", "lastmodified: \"2025"), ErrMAC},
		"no time":                 {"regex", swap("lastmodified: \"2026", "lastmodified: \"x"), ErrDamaged},
		"the other kind of MAC":   {"macOnly", swap("mac_only_encrypted: true", "mac_only_encrypted: false"), ErrMAC},
		"an empty MAC":            {"regex", func(f string) string { return regexp.MustCompile(`mac: .*`).ReplaceAllString(f, `mac: ""`) }, ErrMAC},
		"several rules":           {"regex", swap("encrypted_regex:", "encrypted_suffix: x\n    encrypted_regex:"), ErrDamaged},
		"comments, and only what is sealed": {
			"comment", swap("encrypted_comment_regex:", "mac_only_encrypted: true\n    encrypted_comment_regex:"), ErrUnchecked,
		},
	} {
		t.Run(name, func(t *testing.T) {
			keys, file := vector(t, tt.file)
			changed := tt.change(file)
			if changed == file && tt.want != nil {
				t.Fatal("nothing was changed")
			}
			err := keys.Verify([]byte(changed))
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "logon")) {
				t.Errorf("the error holds a value: %v", err)
			}
		})
	}
}

func asJSON(t *testing.T) func(string) string {
	return func(file string) string {
		// Its fields are in the order of the alphabet, so that they stay in theirs.
		data, err := yaml.YAMLToJSON([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
}

// TestVerifyOthers: what is for other keys is for Decrypt to refuse.
func TestVerifyOthers(t *testing.T) {
	_, file := vector(t, "regex")
	other := Keys{identity(t)}
	if err := other.Verify([]byte(strings.Replace(file, "name: login", "name: logon", 1))); err != nil {
		t.Error(err)
	}
}

// TestVerifyBounded: an alias that stands for what it stands in, or many times for itself, ends.
func TestVerifyBounded(t *testing.T) {
	keys, file := vector(t, "macOnly")
	file = file[:strings.Index(file, "\n---\n")+1]
	var bomb bytes.Buffer
	bomb.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		text := strings.NewReplacer("N", string(rune('0'+i)), "M", string(rune('0'+i-1))).Replace("aN: &aN [*aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM]\n")
		bomb.WriteString(text)
	}
	for _, text := range []string{bomb.String(), "loop: &loop {a: *loop}\n"} {
		if err := keys.Verify([]byte(text + file)); err == nil {
			t.Error("it goes through")
		}
	}
}
