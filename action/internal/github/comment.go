package github

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

const (
	// MaxComment is the greatest length of a comment, in bytes: GitHub counts 65,536 characters.
	MaxComment = 65_000
	// maxPages bounds how many comments are looked through, 100 a page.
	maxPages = 50
)

type comment struct {
	ID   int64  `json:"id"`
	Body string `json:"body"`
	User struct {
		Login string `json:"login"`
		Type  string `json:"type"`
	} `json:"user"`
}

// marker is a line that a reader does not see. Its key is ours: letters, digits and dashes.
func marker(key string) string { return "<!-- lockstep: " + key + " -->" }

// Comment leaves one comment of a key on an issue or pull request of a repository (OWNER/NAME): it replaces the one that is
// there, or makes it. What another person wrote is never replaced, marker or not.
func (c *Client) Comment(ctx context.Context, repository string, number int, key, body string) error {
	body = marker(key) + "\n" + body
	// All of it is done over again: an answer that got lost may have made the comment.
	return c.retry(ctx, func() error {
		found, err := c.find(ctx, repository, number, marker(key))
		switch {
		case err != nil:
			return err
		case found == nil:
			return c.do(ctx, http.MethodPost, fmt.Sprintf("/repos/%s/issues/%d/comments", repository, number), map[string]string{"body": body}, nil)
		case found.Body == body:
			return nil
		}
		return c.do(ctx, http.MethodPatch, fmt.Sprintf("/repos/%s/issues/comments/%d", repository, found.ID), map[string]string{"body": body}, nil)
	})
}

func (c *Client) find(ctx context.Context, repository string, number int, marker string) (*comment, error) {
	me := ""
	for page := 1; page <= maxPages; page++ {
		var comments []comment
		path := fmt.Sprintf("/repos/%s/issues/%d/comments?per_page=100&page=%d", repository, number, page)
		if err := c.do(ctx, http.MethodGet, path, nil, &comments); err != nil {
			return nil, err
		}
		for _, found := range comments {
			if !strings.HasPrefix(found.Body, marker) {
				continue
			}
			if found.User.Type == "Bot" {
				return &found, nil
			}
			if me == "" {
				me = c.login(ctx)
			}
			if found.User.Login == me {
				return &found, nil
			}
		}
		if len(comments) < 100 {
			break
		}
	}
	return nil, nil
}

// login is whose token it is; "-", which is nobody's, for one of an app, whose comments are a bot's.
func (c *Client) login(ctx context.Context) string {
	var user struct{ Login string }
	if err := c.do(ctx, http.MethodGet, "/user", nil, &user); err != nil || user.Login == "" {
		return "-"
	}
	return user.Login
}

// ReleaseNotes puts a section of a key into the notes of a release: in place of the one that is there, or at the end.
func (c *Client) ReleaseNotes(ctx context.Context, repository string, release int64, key, section string) error {
	path := fmt.Sprintf("/repos/%s/releases/%d", repository, release)
	return c.retry(ctx, func() error {
		var found struct{ Body string }
		if err := c.do(ctx, http.MethodGet, path, nil, &found); err != nil {
			return err
		}
		return c.do(ctx, http.MethodPatch, path, map[string]string{"body": replaceSection(found.Body, key, section)}, nil)
	})
}

func replaceSection(notes, key, section string) string {
	begin, end := marker(key), marker("end of "+key)
	section = begin + "\n" + section + "\n" + end
	if before, rest, ok := strings.Cut(notes, begin); ok {
		if _, after, ok := strings.Cut(rest, end); ok {
			return before + section + after
		}
	}
	if notes = strings.TrimRight(notes, "\n"); notes != "" {
		notes += "\n\n"
	}
	return notes + section + "\n"
}
