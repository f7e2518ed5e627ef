package report

import (
	"net/url"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
)

const (
	sarifSchema = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	home        = "https://github.com/lockstep-dr/lockstep"
	rulePages   = home + "/blob/main/pkg/coverage/rules/"
	// sourceRoot stands for the root of the repository, in SARIF.
	sourceRoot = "%SRCROOT%"
)

// What of SARIF 2.1.0 a check has to say.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Invocations []sarifInvocation `json:"invocations"`
		Results     []sarifResult     `json:"results"`
		ColumnKind  string            `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name           string      `json:"name"`
		Version        string      `json:"version,omitempty"`
		InformationURI string      `json:"informationUri"`
		Rules          []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string        `json:"id"`
		Name             string        `json:"name"`
		ShortDescription sarifText     `json:"shortDescription"`
		Help             sarifHelp     `json:"help"`
		HelpURI          string        `json:"helpUri"`
		Default          sarifSettings `json:"defaultConfiguration"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifHelp struct {
		Text     string `json:"text"`
		Markdown string `json:"markdown"`
	}
	sarifSettings struct {
		Level string `json:"level"`
	}
	sarifInvocation struct {
		Successful    bool                `json:"executionSuccessful"`
		Notifications []sarifNotification `json:"toolExecutionNotifications"`
	}
	sarifNotification struct {
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations,omitempty"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		RuleIndex    int                `json:"ruleIndex"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Fingerprints map[string]string  `json:"partialFingerprints,omitempty"`
		Suppressions []sarifSuppression `json:"suppressions"`
		// BaselineState says whether the commit that it is compared with has it, too.
		BaselineState string `json:"baselineState,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI       string `json:"uri"`
		URIBaseID string `json:"uriBaseId"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
		Kind               string `json:"kind"`
	}
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification,omitempty"`
	}
)

func newSARIF(d *Document, o Options) *sarifLog {
	run := sarifRun{
		Tool:        sarifTool{sarifDriver{Name: "lockstep", Version: o.Version, InformationURI: home, Rules: []sarifRule{}}},
		Invocations: []sarifInvocation{{Successful: !d.Unchecked, Notifications: []sarifNotification{}}},
		Results:     []sarifResult{},
		ColumnKind:  "unicodeCodePoints",
	}
	index := map[string]int{}
	for i, rule := range coverage.Rules() {
		index[rule.ID] = i
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{
			ID: rule.ID, Name: rule.Name, ShortDescription: sarifText{sentence(rule.Summary)},
			Help: sarifHelp{Text: rule.Page(), Markdown: rule.Page()}, HelpURI: rulePages + rule.ID + ".md", Default: sarifSettings{level(rule.Severity)},
		})
	}
	for _, g := range d.NotRendered {
		n := sarifNotification{Level: "warning", Message: sarifText{plain(sentence("Not rendered: " + g.What + ": " + g.Why))}}
		if g.File != "" {
			n.Locations = []sarifLocation{{Physical: physical(g.Origin)}}
		}
		run.Invocations[0].Notifications = append(run.Invocations[0].Notifications, n)
	}
	for _, i := range items(d.Findings) {
		r := result(i, index[i.Rule])
		if d.Base != "" {
			r.BaselineState = "new"
		}
		run.Results = append(run.Results, r)
	}
	for _, i := range items(d.Existing) {
		r := result(i, index[i.Rule])
		r.BaselineState = "unchanged"
		run.Results = append(run.Results, r)
	}
	for _, s := range d.Suppressed {
		r := result(item{Finding: s.Finding}, index[s.Rule])
		kind := "external"
		if s.By == coverage.ByAnnotation {
			kind = "inSource"
		}
		r.Suppressions = append(r.Suppressions, sarifSuppression{Kind: kind, Status: "accepted", Justification: plain(silencedBy(s))})
		run.Results = append(run.Results, r)
	}
	return &sarifLog{Schema: sarifSchema, Version: "2.1.0", Runs: []sarifRun{run}}
}

func level(s coverage.Severity) string {
	if s == coverage.Off {
		return "none"
	}
	return string(s)
}

func result(f item, rule int) sarifResult {
	r := sarifResult{
		RuleID: f.Rule, RuleIndex: rule, Level: level(f.Severity), Message: sarifText{plain(f.said())},
		Locations: []sarifLocation{{
			Physical: physical(f.Origin), Logical: []sarifLogical{{FullyQualifiedName: plain(name(f.Object)), Kind: "resource"}},
		}},
		Suppressions: []sarifSuppression{}, // none, which is not the same as not known
	}
	if f.Fingerprint != "" {
		r.Fingerprints = map[string]string{"lockstep/v1": f.Fingerprint}
	}
	return r
}

// physical is a place in the repository. Code scanning drops all results if one has none: what is in no file, as a claim of the
// cluster, is shown at the file that configures the check.
func physical(at desired.Origin) sarifPhysical {
	if at.File == "" {
		at = desired.Origin{File: coverage.ConfigName, Line: 1}
	}
	p := sarifPhysical{Artifact: sarifArtifact{URI: (&url.URL{Path: at.File}).String(), URIBaseID: sourceRoot}}
	if at.Line > 0 {
		p.Region = &sarifRegion{StartLine: at.Line}
	}
	return p
}
