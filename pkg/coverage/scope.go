package coverage

// scope is what a check knows and has found.
type scope struct {
	Input
	rule Rule
}

func newScope(in Input) *scope { return &scope{Input: in} }

func (s *scope) report() Report { return Report{} }
