package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/johannesboyne/gofakes3"
)

// memory holds the objects of one bucket. Unlike the library's own it computes no MD5, which would take more of the cores
// than some of the tools do; an object's ETag is random.
type memory struct {
	mu      sync.RWMutex
	objects map[string]*gofakes3.Object
	bodies  map[string][]byte
	names   []string // in order
}

func newMemory() *memory {
	return &memory{objects: map[string]*gofakes3.Object{}, bodies: map[string][]byte{}}
}

var errExists = gofakes3.ErrorMessage(gofakes3.ErrPreconditionFailed, "the object exists")

// put stores an object; onlyNew refuses one that exists.
func (m *memory) put(name string, meta map[string]string, body []byte, onlyNew bool) (*gofakes3.Object, error) {
	etag := make([]byte, 16)
	rand.Read(etag)
	o := &gofakes3.Object{Name: name, Metadata: meta, Size: int64(len(body)), Hash: etag}
	m.mu.Lock()
	defer m.mu.Unlock()
	at, found := slices.BinarySearch(m.names, name)
	if found && onlyNew {
		return nil, errExists
	}
	if !found {
		m.names = slices.Insert(m.names, at, name)
	}
	m.objects[name], m.bodies[name] = o, body
	return o, nil
}

func (m *memory) get(name string) (gofakes3.Object, []byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	o := m.objects[name]
	if o == nil {
		return gofakes3.Object{}, nil, gofakes3.KeyNotFound(name)
	}
	return *o, m.bodies[name], nil
}

func (m *memory) usage() usage {
	m.mu.RLock()
	defer m.mu.RUnlock()
	u := usage{Objects: int64(len(m.names))}
	for _, body := range m.bodies {
		u.Bytes += int64(len(body))
	}
	return u
}

// GetObject implements gofakes3.Backend, as do the methods below.
func (m *memory) GetObject(_, name string, want *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	o, body, err := m.get(name)
	if err != nil {
		return nil, err
	}
	if o.Range, err = want.Range(o.Size); err != nil {
		return nil, err
	}
	if o.Range != nil {
		body = body[o.Range.Start:][:o.Range.Length]
	}
	o.Contents = io.NopCloser(bytes.NewReader(body))
	return &o, nil
}

// HeadObject is without the content.
func (m *memory) HeadObject(_, name string) (*gofakes3.Object, error) {
	o, _, err := m.get(name)
	o.Contents = io.NopCloser(strings.NewReader(""))
	return &o, err
}

// PutObject stores what comes by another way than fastPut: copies and multipart uploads.
func (m *memory) PutObject(_, name string, meta map[string]string, r io.Reader, size int64, only *gofakes3.PutConditions) (gofakes3.PutObjectResult, error) {
	body, err := gofakes3.ReadAll(r, size)
	if err != nil {
		return gofakes3.PutObjectResult{}, err
	}
	_, err = m.put(name, meta, body, only != nil && only.IfNoneMatch != nil)
	return gofakes3.PutObjectResult{}, err
}

// DeleteObject succeeds if there is none, as S3 does.
func (m *memory) DeleteObject(_, name string) (gofakes3.ObjectDeleteResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, found := slices.BinarySearch(m.names, name); found {
		m.names = slices.Delete(m.names, at, at+1)
		delete(m.objects, name)
		delete(m.bodies, name)
	}
	return gofakes3.ObjectDeleteResult{}, nil
}

// DeleteMulti deletes many.
func (m *memory) DeleteMulti(_ string, names ...string) (gofakes3.MultiDeleteResult, error) {
	var result gofakes3.MultiDeleteResult
	for _, name := range names {
		if _, err := m.DeleteObject("", name); err != nil {
			return result, err
		}
		result.Deleted = append(result.Deleted, gofakes3.ObjectID{Key: name})
	}
	return result, nil
}

// ListBucket lists in order, page by page.
func (m *memory) ListBucket(_ string, prefix *gofakes3.Prefix, page gofakes3.ListBucketPage) (*gofakes3.ObjectList, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := gofakes3.NewObjectList()
	if prefix == nil {
		prefix = &gofakes3.Prefix{}
	}
	count, last := int64(0), ""
	var match gofakes3.PrefixMatch
	for _, name := range m.names {
		if name <= page.Marker && page.Marker != "" || !prefix.Match(name, &match) || match.CommonPrefix && match.MatchedPart == last {
			continue
		}
		// What a page ended with, a common prefix among it, is not part of the next.
		if match.CommonPrefix && page.Marker != "" && strings.HasPrefix(page.Marker, match.MatchedPart) {
			continue
		}
		if page.MaxKeys > 0 && count == page.MaxKeys {
			list.IsTruncated = true
			break
		}
		if match.CommonPrefix {
			last = match.MatchedPart
			list.AddPrefix(last)
		} else {
			o := m.objects[name]
			modified, err := http.ParseTime(o.Metadata["Last-Modified"])
			if err != nil {
				modified = time.Now()
			}
			list.Add(&gofakes3.Content{Key: name, LastModified: gofakes3.NewContentTime(modified), ETag: gofakes3.FormatETag(o.Hash), Size: o.Size})
		}
		count++
		list.NextMarker = name
	}
	if !list.IsTruncated {
		list.NextMarker = ""
	}
	return list, nil
}

// CopyObject copies.
func (m *memory) CopyObject(_, from, _, to string, meta map[string]string) (gofakes3.CopyObjectResult, error) {
	return gofakes3.CopyObject(m, bucket, from, bucket, to, meta)
}

// ListBuckets knows one bucket.
func (m *memory) ListBuckets() ([]gofakes3.BucketInfo, error) {
	return []gofakes3.BucketInfo{{Name: bucket}}, nil
}

// BucketExists knows one bucket.
func (m *memory) BucketExists(name string) (bool, error) { return name == bucket, nil }

// CreateBucket makes none.
func (m *memory) CreateBucket(name string) error {
	return gofakes3.ResourceError(gofakes3.ErrBucketAlreadyExists, name)
}

// DeleteBucket deletes none.
func (m *memory) DeleteBucket(name string) error {
	return gofakes3.ResourceError(gofakes3.ErrBucketNotEmpty, name)
}

// ForceDeleteBucket deletes none.
func (m *memory) ForceDeleteBucket(name string) error { return m.DeleteBucket(name) }

// isPlainPut tells the request that nearly all bytes come by: to store one object whole.
func isPlainPut(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.RawQuery == "" && strings.HasPrefix(r.URL.Path, "/"+bucket+"/") &&
		r.Header.Get("X-Amz-Copy-Source") == "" && r.Header.Get("If-Match") == ""
}

// fastPut answers a plain PUT. The library would compute an MD5 that nobody asks for.
func (m *memory) fastPut(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	meta := map[string]string{"Last-Modified": time.Now().UTC().Format(http.TimeFormat)}
	for key, values := range r.Header {
		if strings.HasPrefix(key, "X-Amz-Meta-") || key == "Content-Type" {
			meta[key] = values[0]
		}
	}
	o, err := m.put(strings.TrimPrefix(r.URL.Path, "/"+bucket+"/"), meta, body, r.Header.Get("If-None-Match") == "*")
	if err != nil {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusPreconditionFailed)
		fmt.Fprint(w, "<Error><Code>PreconditionFailed</Code><Message>the object exists</Message></Error>")
		return
	}
	w.Header().Set("ETag", `"`+hex.EncodeToString(o.Hash)+`"`)
}

// readBody reads a body as it is, or in the chunks, each with a signature, that S3 clients send over plain HTTP.
func readBody(r *http.Request) ([]byte, error) {
	decoded := r.Header.Get("X-Amz-Decoded-Content-Length")
	if decoded == "" {
		if r.ContentLength < 0 {
			return nil, errors.New("the length is missing")
		}
		body := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	size, err := strconv.ParseUint(decoded, 10, 40)
	if err != nil {
		return nil, err
	}
	body := make([]byte, 0, size)
	in := bufio.NewReaderSize(r.Body, 64*kib)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		length, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseUint(length, 16, 31)
		switch {
		case err != nil:
			return nil, err
		case uint64(len(body))+n > size:
			return nil, errors.New("more comes than was announced")
		case n == 0 && uint64(len(body)) < size:
			return nil, errors.New("less comes than was announced")
		case n == 0:
			_, err = io.Copy(io.Discard, in) // checksums
			return body, err
		}
		body = body[:uint64(len(body))+n]
		if _, err := io.ReadFull(in, body[uint64(len(body))-n:]); err != nil {
			return nil, err
		}
		if _, err := in.Discard(len("\r\n")); err != nil {
			return nil, err
		}
	}
}
