package revision

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// schemeSCP marks the short form "[user@]host:path" of an SSH address; Opaque then holds the path as written.
const schemeSCP = "scp"

// scpLike has no slash before its first colon, which is what tells it from a path and from a URL.
var scpLike = regexp.MustCompile(`^(?:([^/]*)@)?(\[[0-9a-fA-F:.]+\]|[^/:@[]+):([^:].*)$`)

// parse never fails: what is not an address is taken as a path.
func parse(raw string) *url.URL {
	raw = strings.TrimSpace(raw)
	if strings.Contains(raw, "://") {
		return parseURL(raw)
	}
	if m := scpLike.FindStringSubmatch(raw); m != nil && filepath.VolumeName(raw) == "" && !hasUser(m[3]) {
		u := &url.URL{Scheme: schemeSCP, Host: m[2], Path: m[3], Opaque: m[3]}
		if name, _, _ := strings.Cut(m[1], ":"); name != "" {
			u.User = url.User(name)
		}
		return u
	}
	if hasUser(raw) {
		return parseURL("https://" + raw)
	}
	return &url.URL{Path: raw}
}

// hasUser says whether the first element of an address carries a user, as in "user:token@host/path" without its scheme.
func hasUser(s string) bool {
	first, _, _ := strings.Cut(s, "/")
	return strings.Contains(first, "@")
}

func parseURL(raw string) *url.URL {
	if u, err := url.Parse(raw); err == nil {
		u.Scheme = strings.TrimPrefix(strings.ToLower(u.Scheme), "git+")
		return u
	}
	// Not a URL by the book, for instance an unescaped password: take it apart so far that nothing secret stays.
	scheme, rest, _ := strings.Cut(raw, "://")
	if scheme == "" {
		scheme = "https"
	}
	rest, _, _ = strings.Cut(rest, "?")
	authority, dir, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(rest, '@'); i >= len(authority) {
		authority, dir, _ = strings.Cut(rest[i+1:], "/")
	}
	if plain, err := url.PathUnescape(dir); err == nil {
		dir = plain
	}
	return &url.URL{Scheme: strings.ToLower(scheme), Host: authority[strings.LastIndexByte(authority, '@')+1:], Path: "/" + dir}
}

func defaultPort(scheme string) string {
	switch scheme {
	case "https":
		return "443"
	case "http":
		return "80"
	case "ssh":
		return "22"
	case "git":
		return "9418"
	}
	return ""
}
