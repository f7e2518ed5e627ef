package revision

import (
	"errors"
	"strings"
	"testing"
)

const (
	sha1   = "0123456789abcdef0123456789abcdef01234567"
	sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ in, ref, commit string }{
		{"main@sha1:" + sha1, "main", sha1},
		{"sha1:" + sha1, "", sha1},
		{"v1.0.0@sha256:" + sha256, "v1.0.0", sha256},
		{"feature/a@b@sha1:" + sha1, "feature/a@b", sha1},
	} {
		ref, commit, err := Parse(c.in)
		if err != nil || ref != c.ref || commit != c.commit {
			t.Errorf("Parse(%q) = %q, %q, %v, want %q, %q", c.in, ref, commit, err, c.ref, c.commit)
		}
		if got := Format(ref, commit); got != c.in {
			t.Errorf("Format(%q, %q) = %q, want %q", ref, commit, got, c.in)
		}
	}
	for _, in := range []string{
		"", "main", "main@", sha1, "main/" + sha1, "@sha1:" + sha1, "sha1:" + sha1[1:], "sha1:" + sha256, "sha256:" + sha1,
		"sha1:" + strings.ToUpper(sha1), "md5:" + sha1, "main@sha1:" + sha1 + " ",
	} {
		if _, _, err := Parse(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("Parse(%q) gives error %v, want ErrInvalid", in, err)
		}
	}
}

func TestSameRepository(t *testing.T) {
	shop := []string{
		"https://github.com/acme/shop",
		"https://github.com/acme/shop.git",
		"https://github.com/acme/shop/",
		"https://github.com/acme/shop.git/",
		"https://GitHub.com:443/acme/shop",
		"http://github.com:80/acme/shop",
		"https://token@github.com/acme/shop",
		"https://user:p%40ss@github.com/acme/shop.git",
		"https://user:p%zz@ss@github.com/acme/shop.git",
		"https://user:pa/ss@github.com/acme/shop.git",
		"https://github.com//acme//shop",
		"https://github.com./acme/shop?depth=1#readme",
		"ssh://git@github.com/acme/shop",
		"ssh://git@github.com:22/acme/shop.git",
		"git+ssh://git@github.com/acme/shop.git",
		"git://github.com:9418/acme/shop",
		"git@github.com:acme/shop.git",
		"git@github.com:/acme/shop.git",
		"github.com:acme/shop",
		"user:token@github.com/acme/shop",
		" https://github.com/acme/shop\n",
	}
	for _, u := range shop {
		if got := NormalizeURL(u); got != "github.com/acme/shop" {
			t.Errorf("NormalizeURL(%q) = %q", u, got)
		}
	}
	others := []string{
		"https://github.com/acme/shop2", "https://github.com/Acme/shop", "https://github.com/acme/shop.git.git",
		"https://gitlab.com/acme/shop", "https://github.com:8443/acme/shop", "ssh://git@github.com:443/acme/shop",
		"https://github.com/acme", "/srv/git/github.com/acme/shop", "file:///github.com/acme/shop", "",
	}
	for _, u := range others {
		if SameRepository(u, shop[0]) {
			t.Errorf("%q counts as the same repository as %q", u, shop[0])
		}
	}
	for _, pair := range [][2]string{
		{"ssh://git@[2001:DB8::1]/a/b", "https://[2001:db8::1]:443/a/b.git"},
		{"git@[2001:db8::1]:a/b", "ssh://[2001:db8::1]/a/b"},
		{"https://git.local:8443/a/b%20c", "http://git.local:8443/a/b c.git"},
		{"file:///srv/git/shop.git", "/srv/git/shop"},
	} {
		if !SameRepository(pair[0], pair[1]) {
			t.Errorf("%q is %q, %q is %q: want the same", pair[0], NormalizeURL(pair[0]), pair[1], NormalizeURL(pair[1]))
		}
	}
}

func TestStripCredentials(t *testing.T) {
	for in, want := range map[string]string{
		"https://github.com/acme/shop.git":               "https://github.com/acme/shop.git",
		"https://token@github.com/acme/shop":             "https://github.com/acme/shop",
		"https://user:secret@github.com:8443/acme/shop":  "https://github.com:8443/acme/shop",
		"https://user:p%zzsecret@github.com/acme/shop":   "https://github.com/acme/shop",
		"https://user:sec/ret@github.com/acme/shop":      "https://github.com/acme/shop",
		"https://github.com/acme/shop?private_token=s#s": "https://github.com/acme/shop",
		"ssh://git:secret@github.com/acme/shop":          "ssh://git@github.com/acme/shop",
		"ssh://git@github.com:2222/acme/shop":            "ssh://git@github.com:2222/acme/shop",
		"git@github.com:acme/shop.git":                   "git@github.com:acme/shop.git",
		"github.com:acme/shop.git":                       "github.com:acme/shop.git",
		"git:secret@github.com:acme/shop.git":            "git@github.com:acme/shop.git",
		"user:secret@github.com/acme/shop":               "https://github.com/acme/shop",
		"/srv/git/shop":                                  "/srv/git/shop",
		"../shop":                                        "../shop",
		"file:///srv/git/shop":                           "file:///srv/git/shop",
	} {
		if got := StripCredentials(in); got != want {
			t.Errorf("StripCredentials(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestShort(t *testing.T) {
	for in, want := range map[string]string{sha1: "0123456", "abc": "abc", "": ""} {
		if got := Short(in); got != want {
			t.Errorf("Short(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"https://u:hunter2@github.com/acme/shop.git", "git@github.com:acme/shop", "u:hunter2@h/p", "ssh://git:hunter2@h:2222/p",
		"https://u:hun/ter2@h/p", "https://u:%zz@h/p?x=1", "://", "@", "[::1]:p", "a@b@c:d", "C:\\git", "..//..",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		host, _, _ := strings.Cut(NormalizeURL(raw), "/")
		if strings.Trim(host, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" || strings.ContainsAny(raw, "\\\x00") {
			t.Skip("no address")
		}
		stripped := StripCredentials(raw)
		if again := StripCredentials(stripped); again != stripped {
			t.Errorf("StripCredentials(%q) = %q, and of that %q", raw, stripped, again)
		}
		if host != "" && !SameRepository(raw, stripped) {
			t.Errorf("%q and without credentials %q differ: %q, %q", raw, stripped, NormalizeURL(raw), NormalizeURL(stripped))
		}
	})
}

// FuzzSecret puts a password that could not be part of anything else into a URL and looks for it.
func FuzzSecret(f *testing.F) {
	f.Add("https", "git", "hunter2", "github.com", "acme/shop.git")
	f.Add("ssh", "git", "p@ss wo:rd", "github.com:2222", "acme/shop")
	f.Add("", "x-token", "s%zz", "h", "p")
	f.Fuzz(func(t *testing.T, scheme, user, password, host, dir string) {
		const marker = "HUNTER2"
		if strings.ContainsAny(user+host+scheme, "/@:?#") || strings.ContainsAny(password, "/?#") || strings.Contains(dir, "@") || host == "" {
			t.Skip()
		}
		prefix := ""
		if scheme != "" {
			prefix = scheme + "://"
		}
		raw := prefix + user + ":" + strings.ReplaceAll(password, marker, "") + marker + "@" + host + "/" + dir
		if got := StripCredentials(raw); strings.Contains(got, marker) {
			t.Errorf("StripCredentials(%q) = %q", raw, got)
		}
		if got := NormalizeURL(raw); strings.Contains(got, marker) {
			t.Errorf("NormalizeURL(%q) = %q", raw, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("main@sha1:" + sha1)
	f.Add("sha256:" + sha256)
	f.Fuzz(func(t *testing.T, s string) {
		ref, commit, err := Parse(s)
		if err == nil && Format(ref, commit) != s {
			t.Errorf("Format(Parse(%q)) = %q", s, Format(ref, commit))
		}
	})
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{"": ".", ".": ".", "./": ".", "/": ".", "deploy": "deploy", "./deploy/": "deploy", "/deploy//a/../b": "deploy/b"} {
		if got := CleanPath(in); got != want {
			t.Errorf("CleanPath(%q) = %q, want %q", in, got, want)
		}
	}
}
