package render

import (
	"fmt"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// maxText and maxList are what one call in a template may make, in bytes and in values.
const (
	maxText = 4 << 20
	maxList = 100_000
)

// boundedFuncs are functions of templates by which a few characters make much, with a bound each.
func boundedFuncs() template.FuncMap {
	helpers := sprig.TxtFuncMap()
	text := func(s string) (string, error) {
		if len(s) > maxText {
			return "", tooMuch("a template makes a text of more than %d bytes", maxText)
		}
		return s, nil
	}
	times := func(n int, s string) error {
		if n > 0 && len(s) > 0 && n > maxText/len(s) {
			return tooMuch("a template makes a text of more than %d bytes", maxText)
		}
		return nil
	}
	indent := func(n int, s string) (string, error) {
		if err := times(n, " "+strings.Repeat("\n", strings.Count(s, "\n"))); err != nil {
			return "", err
		}
		return text(strings.Repeat(" ", max(n, 0)) + strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", max(n, 0))))
	}
	list := func(from, to, step int) ([]int, error) {
		if step == 0 || (to-from)/step > maxList {
			return nil, tooMuch("a template makes a list of more than %d values", maxList)
		}
		return helpers["untilStep"].(func(int, int, int) []int)(from, to, step), nil
	}
	return template.FuncMap{
		"repeat": func(n int, s string) (string, error) {
			if err := times(n, s); err != nil {
				return "", err
			}
			return strings.Repeat(s, max(n, 0)), nil
		},
		"indent": indent,
		"nindent": func(n int, s string) (string, error) {
			s, err := indent(n, s)
			return "\n" + s, err
		},
		"untilStep": list,
		"until": func(n int) ([]int, error) {
			if n < 0 {
				return list(0, n, -1)
			}
			return list(0, n, 1)
		},
		"print":   func(args ...any) (string, error) { return text(fmt.Sprint(args...)) },
		"println": func(args ...any) (string, error) { return text(fmt.Sprintln(args...)) },
		"printf":  func(format string, args ...any) (string, error) { return text(fmt.Sprintf(format, args...)) },
		"replace": func(old, with, s string) (string, error) {
			if err := times(strings.Count(s, old), with); err != nil {
				return "", err
			}
			return strings.ReplaceAll(s, old, with), nil
		},
	}
}
