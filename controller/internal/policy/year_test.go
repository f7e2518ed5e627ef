package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the test does not depend on the zones of the machine

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/retention"
	"github.com/lockstep-dr/lockstep/test/seed"
)

const (
	// every is the time between the scheduled moments of the simulated policy, longest the most that it can be: an hour more in the night
	// in which summer time ends. most is what its jitter adds.
	every, longest, most = 3 * time.Hour, 4 * time.Hour, 5 * time.Minute
	rpo                  = 6 * time.Hour
	// notices is how long it takes until a Vault's status says that the vault is down, or back.
	notices = 5 * time.Minute
	// stride is how much is lived at once unless something is to be seen sooner. It takes the place of recheck, to be quick.
	stride = 30 * time.Minute
)

// year is a simulated year of one policy: of decide and of retention, which are the controller's own, and of a world that is made up.
type year struct {
	*testing.T
	*rand.Rand
	zone *time.Location

	policy *v1alpha1.ProtectionPolicy
	points []v1alpha1.RestorePoint
	marks  retention.Marks
	// refused is the digest of what the last step would not let go.
	refused string
	// truth is when the data of a point were really taken, newest that of the newest good one.
	truth  map[string]time.Time
	newest time.Time
	vault  v1alpha1.Vault

	now   time.Time     // really
	wrong time.Duration // by how much the clock is
	jumps bool          // says that the clock does
	// away and down are until when the controller is, and the vault. told is what the Vault's status says.
	away, down time.Time
	told       time.Time
	// ends is when the running backup does.
	ends time.Time
	// since is from when on nothing was in the way of a point, and none was asked for.
	since time.Time
	// inOutage counts the points that were asked for since the vault went down.
	inOutage int
	asked    map[string]bool
	removed  int
	done     struct{ restarts, outages, failures, catchUps, jumps, refusals int }
}

func newYear(t *testing.T, seed uint64, zone string, jumps bool) *year {
	place, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 1, 0, 30, 0, 0, place)
	y := &year{T: t, Rand: rand.New(rand.NewPCG(seed, 0)), zone: place, now: start, since: start, jumps: jumps,
		truth: map[string]time.Time{}, asked: map[string]bool{}}
	y.policy = &v1alpha1.ProtectionPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", UID: types.UID(fmt.Sprint(seed)), CreationTimestamp: metav1.NewTime(start)},
		Spec: v1alpha1.ProtectionPolicySpec{
			Vaults: []string{"primary"}, Schedule: "0 */3 * * *", TimeZone: zone, Objectives: &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: rpo}},
		},
	}
	y.vault.Name = "primary"
	y.vaultIs(metav1.ConditionTrue)
	return y
}

func (y *year) vaultIs(ready metav1.ConditionStatus) {
	conditions.Set(&y.vault, &metav1.Condition{Type: v1alpha1.ConditionReady, Status: ready, Reason: "Test"})
}

func (y *year) chance(permille int) bool { return y.IntN(1000) < permille }

// clock is what the controller's tells, in the whole seconds that Kubernetes keeps.
func (y *year) clock() time.Time { return y.now.Add(y.wrong).Truncate(time.Second) }

// running is the point that is not finished, nil if there is none.
func (y *year) running() *v1alpha1.RestorePoint {
	i := slices.IndexFunc(y.points, func(p v1alpha1.RestorePoint) bool { return !conditions.IsReady(&p) && !conditions.IsStalled(&p) })
	if i < 0 {
		return nil
	}
	return &y.points[i]
}

// pass is one look of the controller at the policy, and says when it looks again.
func (y *year) pass() time.Duration {
	before := y.policy.DeepCopy()
	o := observation{claims: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}, vault: &y.vault, points: y.points}
	v := decide(y.policy, o, y.clock())
	v.show(y.policy)
	conditions.Set(y.policy, v.objective)
	if !v.due.IsZero() {
		y.request(v.due)
	}
	if y.chance(10) { // it died before it wrote the status, and is back at once
		y.policy = before
		y.done.restarts++
		return time.Second
	}
	y.checkObjective()
	if wait := v.wait(y.clock()); wait < recheck {
		return wait
	}
	return stride
}

// request makes a point as Reconciler.request does.
func (y *year) request(due time.Time) {
	y.policy.Status.LastRun = &metav1.Time{Time: due}
	name := due.UTC().Format("20060102-150405")
	if y.asked[name] {
		return
	}
	if p := y.running(); p != nil {
		y.Fatalf("%v: point %s is asked for while %s is not finished", y.now, name, p.Name)
	}
	if y.wrong == 0 && (due.After(y.now) || y.now.Sub(due) > longest+most) {
		y.Errorf("%v: the point of %v is asked for, which is not the newest moment", y.now, due)
	}
	if y.wrong == 0 && y.now.Sub(due) > most+stride {
		y.done.catchUps++
	}
	y.asked[name] = true
	y.points = append(y.points, v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(y.clock())}})
	y.ends = y.now.Add(time.Duration(1+y.IntN(20)) * time.Minute)
	if y.now.Before(y.down) {
		y.inOutage++
	}
}

// checkObjective holds what was just promised against the truth.
func (y *year) checkObjective() {
	if !conditions.IsTrue(y.policy, v1alpha1.ConditionObjectiveMet) || y.misdated() {
		return
	}
	if y.now.Sub(y.newest) <= rpo+time.Second {
		return
	}
	y.Errorf("%v: the objective is met, they say, and no good point is younger than %v", y.now, rpo)
}

// misdated says that nobody can know how old the newest point is: the clock is wrong, or a point that was taken when it was ahead now seems
// to be of this hour.
func (y *year) misdated() bool {
	return y.wrong != 0 || slices.ContainsFunc(y.points, func(p v1alpha1.RestorePoint) bool {
		return conditions.IsReady(&p) && p.Status.Taken.After(y.truth[p.Name].Add(time.Second)) && !p.Status.Taken.After(y.now.Add(skew))
	})
}

// finishBackup ends the running backup, one in thirty with a failure. While the vault is down it waits.
func (y *year) finishBackup() {
	p := y.running()
	if p == nil || y.now.Before(y.ends) || y.now.Before(y.down) || y.now.Before(y.away) {
		return
	}
	if y.chance(30) {
		conditions.MarkStalled(p, v1alpha1.ReasonSaveFailed, "as the test wants it")
		y.done.failures++
		return
	}
	at := metav1.NewTime(y.clock())
	p.Status.Taken = &at
	y.truth[p.Name], y.newest = y.now, y.now
	conditions.Set(p, &metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded})
}

// retain takes one step of retention, after which the points that it removes are gone.
func (y *year) retain() {
	in := retention.Input{Now: y.clock(), Zone: y.zone, Rules: retention.Rules{Last: 4, Daily: 7, Weekly: 4, Monthly: 12}}
	for _, p := range y.points {
		one := retention.Point{ID: p.Name, Taken: p.CreationTimestamp.Time, Complete: conditions.IsReady(&p)}
		if p.Status.Taken != nil {
			one.Taken = p.Status.Taken.Time
		}
		if conditions.IsReady(&p) || conditions.IsStalled(&p) { // what is under way is no point yet
			in.Points = append(in.Points, one)
		}
	}
	verdicts, err := retention.Decide(in)
	if err != nil {
		y.Fatal(err)
	}
	limits := retention.Limits{Grace: retention.Grace, Share: retention.Share, Least: retention.Least}
	word := ""
	if y.wrong == 0 && y.jumps && y.chance(50) { // a person has looked at what the wrong clock did
		word = y.refused
	}
	step := retention.Next(verdicts, y.marks, limits, word, y.clock())
	y.refused = ""
	if step.Refused != nil {
		y.done.refusals++
		y.refused = step.Refused.Digest()
		if len(step.Remove) > 0 || !y.jumps {
			y.Errorf("%v: %v; %d points go", y.now, step.Refused, len(step.Remove))
		}
	}
	y.marks = step.Marks
	good := y.good()
	for _, id := range step.Remove {
		y.points = slices.DeleteFunc(y.points, func(p v1alpha1.RestorePoint) bool {
			if p.Name == id && id == good && !y.behind(p) {
				y.Fatalf("%v: the newest good point %s is removed", y.now, id)
			}
			return p.Name == id
		})
		y.removed++
	}
}

// behind says that a clock which was behind dated a point, so that nobody can know how new it is.
func (y *year) behind(p v1alpha1.RestorePoint) bool {
	return p.Status.Taken != nil && p.Status.Taken.Time.Before(y.truth[p.Name].Add(-time.Second))
}

// good is the name of the point with the newest data, really.
func (y *year) good() string {
	newest := ""
	for _, p := range y.points {
		if conditions.IsReady(&p) && (newest == "" || y.truth[p.Name].After(y.truth[newest])) {
			newest = p.Name
		}
	}
	return newest
}

// happen lets the world go wrong, and right again.
func (y *year) happen() {
	switch {
	case y.now.Before(y.down):
	case !y.down.IsZero():
		y.down, y.told, y.inOutage = time.Time{}, y.now.Add(notices), 0
	case y.chance(1):
		y.down, y.told = y.now.Add(time.Duration(y.IntN(40*60))*time.Minute), y.now.Add(notices)
		y.done.outages++
	}
	if !y.now.Before(y.told) {
		if y.down.IsZero() {
			y.vaultIs(metav1.ConditionTrue)
		} else {
			y.vaultIs(metav1.ConditionUnknown)
		}
	}
	if y.now.After(y.away) && y.chance(1) {
		y.away = y.now.Add(time.Duration(y.IntN(30*60)) * time.Minute)
		y.done.restarts++
	}
	if y.jumps && y.chance(2) {
		y.wrong = []time.Duration{0, 0, 90 * time.Minute, -26 * time.Hour, 400 * 24 * time.Hour, -400 * 24 * time.Hour}[y.IntN(6)]
		y.done.jumps++
	}
}

// blocked says that no point can be asked for.
func (y *year) blocked() bool {
	return y.now.Before(y.away) || y.wrong != 0 || !conditions.IsReady(&y.vault) || y.running() != nil
}

// checkRuns finds that no moment is left out, and that an outage leaves no pile of points.
func (y *year) checkRuns(asked int) {
	if y.blocked() || len(y.asked) > asked {
		y.since = y.now
	}
	limit := longest + most + stride
	if y.jumps {
		limit += 24 * time.Hour // moments that came while the clock was wrong do not come again
	}
	if waited := y.now.Sub(y.since); waited > limit {
		y.Fatalf("%v: nothing was in the way, and no point was asked for in %v", y.now, waited)
	}
	if y.inOutage > 1 {
		y.Fatalf("%v: %d points were asked for while the vault was down", y.now, y.inOutage)
	}
}

// live lives so many months.
func (y *year) live(months int) {
	look, retain := y.now, y.now
	for end := y.now.AddDate(0, months, 0); y.now.Before(end); {
		asked := len(y.asked)
		y.happen()
		y.finishBackup()
		if !y.now.Before(look) && !y.now.Before(y.away) {
			look = y.now.Add(y.pass())
		}
		if !y.now.Before(retain) && !y.now.Before(y.away) {
			y.retain()
			retain = y.now.Add(every)
		}
		y.checkRuns(asked)
		next := y.now.Add(stride)
		if look.After(y.now) && look.Before(next) {
			next = look
		}
		y.now = next
	}
}

// TestAYear lets the schedule, the objective and retention live through a year of outages, restarts, failures and changes to summer
// time, and some months with a clock that jumps.
func TestAYear(t *testing.T) {
	for _, tt := range []struct {
		zone   string
		months int
		jumps  bool
	}{{"Europe/Berlin", 12, false}, {"Australia/Lord_Howe", 12, false}, {"America/New_York", 5, true}} {
		t.Run(tt.zone, func(t *testing.T) {
			t.Parallel()
			y := newYear(t, seed.First(t), tt.zone, tt.jumps)
			y.live(tt.months)
			t.Logf("%d points asked for, %d removed, %d left; %+v", len(y.asked), y.removed, len(y.points), y.done)
			removed := 100 * tt.months
			if tt.jumps { // what a wrong clock dated waits for a person's word
				removed = 20 * tt.months
			}
			if len(y.asked) < 150*tt.months || y.removed < removed || y.done.restarts == 0 || y.done.outages == 0 && !tt.jumps || y.done.failures == 0 {
				t.Error("next to nothing happened")
			}
		})
	}
}
