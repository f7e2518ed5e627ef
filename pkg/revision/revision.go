// Package revision reads, writes and compares what Git calls a place: revisions like "main@sha1:<commit>" and the URLs
// of repositories.
package revision

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
)

// ErrInvalid is wrapped by every refusal of Parse.
var ErrInvalid = errors.New("not a revision")

// shortLength is what Git forges show of a commit.
const shortLength = 7

// Parse splits "<branch or tag>@sha1:<commit>" or "sha1:<commit>" (sha256 likewise). The ref is empty where there is none.
func Parse(s string) (ref, commit string, err error) {
	digest := s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		ref, digest = s[:i], s[i+1:]
		if ref == "" {
			return "", "", fmt.Errorf("%w: %q has an empty name before the @", ErrInvalid, s)
		}
	}
	algorithm, commit, ok := strings.Cut(digest, ":")
	if !ok || !IsCommit(commit) || algorithm != algorithmOf(commit) {
		return "", "", fmt.Errorf("%w: %q is not <name>@sha1:<40 digits> or sha1:<40 digits>", ErrInvalid, s)
	}
	return ref, commit, nil
}

// Format is the inverse of Parse. The commit must be a full object name.
func Format(ref, commit string) string {
	digest := algorithmOf(commit) + ":" + commit
	if ref == "" {
		return digest
	}
	return ref + "@" + digest
}

// IsCommit says whether s is a full object name: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits.
func IsCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && IsHex(s)
}

// IsHex says whether s consists of lower-case hexadecimal digits only.
func IsHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// Short is the commit as people write it.
func Short(commit string) string {
	return commit[:min(len(commit), shortLength)]
}

// Ancestor is a commit that came before another one.
type Ancestor struct {
	// Commit is its full object name.
	Commit string
	// Differs says that the tree which tells whether the data fits is not the same in the two commits.
	Differs bool
}

// CleanPath gives a directory of a repository the one form that compares: relative, with slashes, "." for the root.
func CleanPath(p string) string { return path.Clean("./" + p) }

func algorithmOf(commit string) string {
	if len(commit) == 64 {
		return "sha256"
	}
	return "sha1"
}

// SameRepository says whether two URLs name the same repository: the scheme, the user, a default port, ".git" and
// slashes at the end make no difference.
func SameRepository(a, b string) bool {
	return NormalizeURL(a) == NormalizeURL(b)
}

// NormalizeURL reduces the URL of a repository to "<host>[:<port>]/<path>", the same for every way to reach it. It is
// for comparing, not for cloning.
func NormalizeURL(raw string) string {
	u := parse(raw)
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" && port != defaultPort(u.Scheme) {
		host += ":" + port
	}
	dir := strings.TrimSuffix(path.Clean("/"+u.Path), ".git")
	return host + strings.TrimRight(dir, "/")
}

// StripCredentials removes what must not be recorded or shown from the URL of a repository: passwords, tokens, and
// the query. The user of an SSH URL stays, since it is part of the address.
func StripCredentials(raw string) string {
	u := parse(raw)
	switch {
	case u.Scheme == "" && u.Host == "":
		return u.Path
	case u.Scheme == schemeSCP:
		if u.User == nil {
			return u.Host + ":" + u.Opaque
		}
		return u.User.Username() + "@" + u.Host + ":" + u.Opaque
	case u.Scheme == "ssh" && u.User != nil:
		u.User = url.User(u.User.Username())
	default:
		u.User = nil
	}
	u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = "", false, "", ""
	return u.String()
}
