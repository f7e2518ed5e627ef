package lab

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
)

// Write is one request that changes something in the cluster.
type Write struct {
	Method, Path, ContentType string
	// Manager is the field manager that the request names.
	Manager string
	Body    []byte
}

// newWrite tells a write from what only asks: reads, rehearsals, and questions that the API takes as POST.
func newWrite(r *http.Request, body []byte) (Write, bool) {
	asks := r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Query().Has("dryRun") ||
		strings.HasPrefix(r.URL.Path, "/apis/authorization.k8s.io/") || strings.HasPrefix(r.URL.Path, "/apis/authentication.k8s.io/")
	return Write{
		Method: r.Method, Path: r.URL.Path, ContentType: r.Header.Get("Content-Type"), Manager: r.URL.Query().Get("fieldManager"), Body: body,
	}, !asks
}

// Counts says whether the write belongs to any work. Nothing depends on Events, the Lease only says who may write, and the
// status of a Vault is written whenever it was looked at, whatever else goes on.
func (w Write) Counts() bool {
	resource, _ := w.target()
	return !slices.Contains([]string{"events", "events.events.k8s.io", "leases.coordination.k8s.io", "vaults.lockstep.dev/status"}, resource)
}

// Identities say what a write does, alike for every run: method, resource, whose object it is, and what a patch changes, by
// the paths of the fields and not by their values. A write of a status has one for each field of it: which of them come
// together is a matter of chance, and each is something that a later step may count on.
func (w Write) Identities() []string {
	resource, name := w.target()
	if w.Method == http.MethodPost {
		name = w.created()
	}
	what := strings.TrimSpace(resource + " " + role(name))
	var patch any
	switch {
	case strings.Contains(w.ContentType, "apply-patch"):
		return []string{"APPLY " + what + " as " + w.Manager}
	case w.Method != http.MethodPatch || json.Unmarshal(w.Body, &patch) != nil:
		return []string{w.Method + " " + what}
	}
	paths := changes("", patch)
	if !strings.HasSuffix(resource, "/status") {
		return []string{"PATCH " + what + ": " + strings.Join(paths, ", ")}
	}
	for i := range paths {
		paths[i] = "PATCH " + what + ": " + paths[i]
	}
	return paths
}

// target splits the path into the resource, with group, subresource and whether it is Lockstep's own namespace, and the name.
func (w Write) target() (resource, name string) {
	parts := strings.Split(strings.Trim(w.Path, "/"), "/")
	group := ""
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = "."+parts[1], parts[3:]
	}
	namespace := ""
	if len(parts) > 2 && parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource = parts[0] + group
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	if len(parts) > 1 {
		name = parts[1]
	}
	if namespace != "" && !strings.HasSuffix(resource, "/status") {
		name = strings.TrimSuffix(namespace+"/"+name, "/")
	}
	return resource, name
}

// created is the name in the body of a POST, which is JSON or, for the kinds of Kubernetes itself, protobuf.
func (w Write) created() string {
	var o struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(w.Body, &o); err == nil {
		return o.Metadata.Namespace + "/" + o.Metadata.Name + o.Metadata.GenerateName
	}
	decoded, _, err := clientgoscheme.Codecs.UniversalDeserializer().Decode(w.Body, nil, nil)
	if object, ok := decoded.(metav1.Object); ok && err == nil {
		return object.GetNamespace() + "/" + object.GetName() + object.GetGenerateName()
	}
	_, name := w.target()
	return name
}

// changing matches the parts of a name that differ from run to run: UIDs and other hexadecimal numbers, and indices.
var changing = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{8,}\b|[0-9]+`)

func role(name string) string { return strings.Trim(changing.ReplaceAllString(name, "*"), "/") }

// changes are the paths of the leaves of a patch. What guards a patch, and what is only words for people, is no change.
func changes(at string, patch any) []string {
	var found []string
	switch p := patch.(type) {
	case map[string]any:
		for key, value := range p {
			path := strings.TrimPrefix(at+"."+key, ".")
			switch path {
			case "metadata.resourceVersion", "metadata.uid", "status.observedGeneration":
			default:
				found = append(found, changes(path, value)...)
			}
		}
		if condition, ok := p["type"].(string); ok && p["status"] != nil {
			found = []string{at + " " + condition}
		}
		if len(p) == 0 {
			found = []string{at}
		}
	case []any:
		for _, value := range p {
			found = append(found, changes(at+"[]", value)...)
		}
		if len(p) == 0 {
			found = []string{at}
		}
	case nil:
		found = []string{"-" + at}
	default:
		if !strings.HasSuffix(at, ".message") {
			found = []string{at}
		}
	}
	sort.Strings(found)
	return slices.Compact(found)
}

// Coverage chooses where to kill a controller, and remembers on which sides of which writes it was killed. The writes are not
// known beforehand: it kills before the first write of an identity that passes, and after the next one.
type Coverage struct{ before, after map[string]bool }

// NewCoverage has killed nowhere yet.
func NewCoverage() *Coverage { return &Coverage{before: map[string]bool{}, after: map[string]bool{}} }

// Kill says whether to kill at this side of a write, and takes it for done.
func (c *Coverage) Kill(w Write, at Moment) bool {
	if !w.Counts() {
		return false
	}
	kill := false
	for _, id := range w.Identities() {
		switch {
		case at == Before && !c.before[id]:
			c.before[id], kill = true, true
		case at == After && c.before[id] && !c.after[id]:
			c.after[id], kill = true, true
		}
	}
	return kill
}

// Missing are the identities of writes that were not hit on both sides.
func (c *Coverage) Missing(writes []Write) []string {
	var missing []string
	for _, id := range Identities(writes) {
		switch {
		case !c.before[id]:
			missing = append(missing, id+" (before, after)")
		case !c.after[id]:
			missing = append(missing, id+" (after)")
		}
	}
	return missing
}

// Identities are all that counts of the writes, sorted.
func Identities(writes []Write) []string {
	var all []string
	for _, w := range writes {
		if w.Counts() {
			all = append(all, w.Identities()...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
