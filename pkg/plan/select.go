package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// Selection is what a restore of volumes alone takes out of a point.
type Selection struct {
	// Record is the point with nothing but those volumes, each under the name of the claim that it is to fill.
	Record point.Record
	// From says as which claim the point holds a volume that is to have another name.
	From map[object.Name]object.Name
	// Empty are the claims that get a volume without data.
	Empty map[object.Name]bool
	// faults say why the selection cannot be had.
	faults []string
}

// Select takes the volumes that are asked for out of a point. What speaks against it is in the refusals of the plan.
func Select(record point.Record, asked []v1alpha1.VolumeRequest) *Selection {
	s := &Selection{Record: record, From: map[object.Name]object.Name{}, Empty: map[object.Name]bool{}}
	s.Record.Volumes, s.Record.Residual = nil, nil
	taken := map[string]string{}
	for _, a := range asked {
		target := cmp.Or(a.As, a.Claim)
		i := slices.IndexFunc(record.Volumes, func(v point.Volume) bool { return v.Key() == a.Claim })
		switch other, twice := taken[target]; {
		case a.Empty:
			s.addEmpty(a.Claim)
		case i < 0:
			s.faults = append(s.faults, fmt.Sprintf("point %s holds no volume of claim %s; %s", record.ID, a.Claim, heldBy(record)))
		case twice:
			s.faults = append(s.faults, fmt.Sprintf("claim %s is asked for twice: from %s and from %s", target, other, a.Claim))
		default:
			taken[target] = a.Claim
			s.add(record.Volumes[i], target)
		}
	}
	return s
}

// addEmpty selects a claim to which no data belongs.
func (s *Selection) addEmpty(claim string) {
	name, err := object.ParseName(claim)
	if err != nil {
		s.faults = append(s.faults, err.Error())
		return
	}
	s.Empty[name] = true
	s.Record.Volumes = append(s.Record.Volumes, point.Volume{Namespace: name.Namespace, Claim: name.Name, ContentRoot: "empty", MetaRoot: "empty"})
}

// add selects a volume. One that gets another name leaves everything behind by which a controller would take it for its own.
func (s *Selection) add(v point.Volume, as string) {
	target, err := object.ParseName(as)
	if err != nil {
		s.faults = append(s.faults, err.Error())
		return
	}
	source := object.Name{Namespace: v.Namespace, Name: v.Claim}
	if target != source {
		v.Namespace, v.Claim = target.Namespace, target.Name
		v.Labels, v.Annotations, v.Spec.DataSource, v.Spec.DataSourceRef = nil, nil, nil, nil
		s.From[target] = source
	}
	s.Record.Volumes = append(s.Record.Volumes, v)
}

func heldBy(record point.Record) string {
	if len(record.Volumes) == 0 {
		return "it holds none at all"
	}
	names := make([]string, 0, len(record.Volumes))
	for _, v := range record.Volumes {
		names = append(names, v.Key())
	}
	slices.Sort(names)
	return "it holds " + strings.Join(names, ", ")
}

// refuseSelection refuses what the point does not hold, and keeps a Restore within its namespace also with what it reads: under
// another name, another namespace's data would come out in its own.
func (b *builder) refuseSelection() {
	if b.in.Selection == nil {
		return
	}
	b.plan.Refusals = append(b.plan.Refusals, b.in.Selection.faults...)
	for _, c := range b.plan.Claims {
		if fact, exists := b.in.Facts.Claims[c.Name]; c.Empty && (!exists || fact.Deleting) {
			b.refusef("claim %s does not exist: only a claim that waits may begin empty", c.Name)
		}
		if c.From != (object.Name{}) {
			b.refuseReach(object.Key{Kind: object.Claim.Kind, Namespace: c.From.Namespace, Name: c.From.Name})
		}
	}
}
