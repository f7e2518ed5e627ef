package retention_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/retention"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// row is as many verdicts as kept has letters, the newest first: 'k' is kept, 'g' goes. IDs count from the oldest.
func row(kept string) []retention.Verdict {
	verdicts := make([]retention.Verdict, len(kept))
	for i, c := range kept {
		n := len(kept) - i
		verdicts[i] = retention.Verdict{Keep: c == 'k', Point: retention.Point{ID: fmt.Sprintf("p%03d", n), Taken: noon.AddDate(-100, 0, n)}}
	}
	return verdicts
}

// ahead has the newest point taken while a clock was ahead.
func ahead(verdicts []retention.Verdict) []retention.Verdict {
	verdicts[0].Point.Taken = noon.AddDate(1, 0, 0)
	return verdicts
}

func ids(m retention.Marks) string {
	var all []string
	for _, p := range m.Points {
		all = append(all, p.ID)
	}
	return strings.Join(all, " ")
}

var limits = retention.Limits{Grace: 24 * time.Hour, Share: 0.2, Least: 5}

func TestNextWaits(t *testing.T) {
	verdicts := row("kkgg")
	var marks retention.Marks
	for hour := range 25 {
		p := retention.Next(verdicts, marks, limits, "", noon.Add(time.Duration(hour)*time.Hour))
		if got := ids(p.Marks); got != "p001 p002" || p.Refused != nil {
			t.Fatalf("after %d h: marked %q, refused %v", hour, got, p.Refused)
		}
		want := ""
		if hour == 24 {
			want = "p001 p002"
		}
		if got := strings.Join(p.Remove, " "); got != want {
			t.Fatalf("after %d h: removes %q, want %q", hour, got, want)
		}
		marks = p.Marks
	}
	// Who died while removing is asked to again; what is gone is forgotten.
	p := retention.Next(row("kkg"), marks, limits, "", noon.Add(25*time.Hour))
	if ids(p.Marks) != "p001" || len(p.Remove) != 1 {
		t.Errorf("marked %q, removes %v", ids(p.Marks), p.Remove)
	}
}

func TestNextForgetsWhatIsNeededAgain(t *testing.T) {
	p := retention.Next(row("kgg"), retention.Marks{}, limits, "", noon)
	p = retention.Next(row("kkg"), p.Marks, limits, "", noon.Add(6*time.Hour))
	if ids(p.Marks) != "p001" {
		t.Fatalf("marked %q", ids(p.Marks))
	}
	p = retention.Next(row("kgg"), p.Marks, limits, "", noon.Add(12*time.Hour))
	want := []retention.Mark{
		{ID: "p001", Since: noon, Waited: 12 * time.Hour},
		{ID: "p002", Since: noon.Add(12 * time.Hour)},
	}
	if diff := cmp.Diff(want, p.Marks.Points); diff != "" {
		t.Error(diff)
	}
}

func TestNextDoesNotBelieveTheClock(t *testing.T) {
	tests := []struct {
		name  string
		after []time.Duration // of the steps after the first
		want  time.Duration   // that a mark then has waited
	}{
		{"it jumps a year ahead", []time.Duration{365 * 24 * time.Hour}, 6 * time.Hour},
		{"it jumps ahead and back", []time.Duration{365 * 24 * time.Hour, 0, time.Hour}, 7 * time.Hour},
		{"it stands still", []time.Duration{0, 0, 0}, 0},
		{"the controller was away for days", []time.Duration{time.Hour, 96 * time.Hour}, 7 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := retention.Next(row("kg"), retention.Marks{}, limits, "", noon)
			for _, after := range tt.after {
				p = retention.Next(row("kg"), p.Marks, limits, "", noon.Add(after))
			}
			if len(p.Remove) > 0 || p.Marks.Points[0].Waited != tt.want {
				t.Errorf("waited %v, want %v; removes %v", p.Marks.Points[0].Waited, tt.want, p.Remove)
			}
		})
	}
}

func TestNextRefuses(t *testing.T) {
	many := row(strings.Repeat("k", 30) + strings.Repeat("g", 70))
	const refused = "of 100 points 30 would be kept, 70 fewer than before, and only 20 may go at once without a person's word: none is removed"
	all := &retention.RefusedError{}
	for n := range 70 {
		all.Points = append(all.Points, fmt.Sprintf("p%03d", n+1))
	}
	fewer := &retention.RefusedError{Points: all.Points[1:]}
	tests := []struct {
		name     string
		verdicts []retention.Verdict
		marks    retention.Marks
		limits   retention.Limits
		word     string
		refused  string
	}{
		{name: "a share is exceeded", verdicts: many, limits: limits, refused: refused},
		{name: "a few may always go", verdicts: row("kggggg"), limits: limits},
		{name: "one more than a few", verdicts: row("kgggggg"), limits: limits,
			refused: "of 7 points 1 would be kept, 6 fewer than before, and only 5 may go at once without a person's word: none is removed"},
		{name: "one more than a few beside one of a time to come", verdicts: ahead(row("kgggggg")), limits: limits,
			refused: "of 7 points 1 would be kept, 6 fewer than before, and only 5 may go at once without a person's word: none is removed"},
		{name: "nothing may", verdicts: row("kg"),
			refused: "of 2 points 1 would be kept, 1 fewer than before, and only 0 may go at once without a person's word: none is removed"},
		{name: "with a person's word", verdicts: many, limits: limits, word: all.Digest()},
		{name: "with a word for others", verdicts: many, limits: limits, word: fewer.Digest(), refused: refused},
		{name: "no fewer than before", verdicts: many, limits: limits, marks: retention.Marks{At: noon, Level: 30}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := retention.Next(tt.verdicts, tt.marks, tt.limits, tt.word, noon)
			if tt.refused == "" {
				if p.Refused != nil || len(p.Marks.Points) == 0 {
					t.Errorf("refused %v, marks %q", p.Refused, ids(p.Marks))
				}
				return
			}
			if p.Refused == nil || p.Refused.Error() != tt.refused || len(p.Marks.Points)+len(p.Remove) > 0 {
				t.Errorf("refused %v, want %s; marks %q, removes %v", p.Refused, tt.refused, ids(p.Marks), p.Remove)
			}
		})
	}
}

// TestARefusalLasts looks again and again at what was refused: time alone is no person's word.
func TestARefusalLasts(t *testing.T) {
	p := retention.Next(row(strings.Repeat("k", 40)), retention.Marks{}, limits, "", noon)
	for day := range 30 {
		p = retention.Next(row(strings.Repeat("k", 20)+strings.Repeat("g", 20)), p.Marks, limits, "", noon.AddDate(0, 0, day))
		if p.Refused == nil || p.Refused.Fewer != 20 {
			t.Fatalf("after %d days: %v", day, p.Refused)
		}
	}
}

// TestALeakIsNoticed lets one point more go every hour.
func TestALeakIsNoticed(t *testing.T) {
	p := retention.Next(row(strings.Repeat("k", 100)), retention.Marks{}, limits, "", noon)
	for hour := 1; hour <= 100; hour++ {
		letters := strings.Repeat("k", 100-hour) + strings.Repeat("g", hour)
		p = retention.Next(row(letters), p.Marks, limits, "", noon.Add(time.Duration(hour)*time.Hour))
		if p.Refused != nil {
			if hour < 20 {
				t.Errorf("refused after %d h: %v", hour, p.Refused)
			}
			return
		}
	}
	t.Error("a hundred points went in a hundred hours, and nobody was asked")
}

// TestARefusalStopsWhatWaits has points wait for their removal when too many others are about to follow.
func TestARefusalStopsWhatWaits(t *testing.T) {
	limits := retention.Limits{Least: 2}
	p := retention.Next(row("kkkkkkkkkgg"), retention.Marks{}, limits, "", noon)
	if p.Refused != nil {
		t.Fatal(p.Refused)
	}
	many := row("kgggggggggg")
	p = retention.Next(many, p.Marks, limits, "", noon.Add(time.Hour))
	if p.Refused == nil || len(p.Remove) > 0 || ids(p.Marks) != "p001 p002" {
		t.Fatalf("refused %v, removes %v, marks %q", p.Refused, p.Remove, ids(p.Marks))
	}
	// A person lets them go: those that were marked before go at once, the others after their own time.
	word := p.Refused.Digest()
	p = retention.Next(many, p.Marks, limits, word, noon.Add(2*time.Hour))
	if got := strings.Join(p.Remove, " "); p.Refused != nil || got != "p001 p002" || len(p.Marks.Points) != 10 {
		t.Fatalf("refused %v, removes %q, marks %q", p.Refused, got, ids(p.Marks))
	}
	// The word stays good for them.
	p = retention.Next(many, p.Marks, limits, word, noon.Add(9*time.Hour))
	if p.Refused != nil || len(p.Remove) != 10 {
		t.Errorf("refused %v, removes %v", p.Refused, p.Remove)
	}
}

// TestWhatComesMakesRoom begins without marks on an ordinary day, on which as many points came as go.
func TestWhatComesMakesRoom(t *testing.T) {
	verdicts := row("kkkkkkkkkkgggggggggg")
	for i := range 10 {
		verdicts[i].Point.Taken = noon.Add(-time.Duration(i) * time.Hour)
	}
	if p := retention.Next(verdicts, retention.Marks{}, limits, "", noon); p.Refused != nil {
		t.Error(p.Refused)
	}
}
