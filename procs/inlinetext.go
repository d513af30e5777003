package procs

import (
	"errors"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dop251/goja"
	"github.com/dop251/goja/ast"
	"github.com/dop251/goja/file"
	"github.com/dop251/goja/parser"

	"pipeproc/api"
)

const (
	// maxPrograms is how many compiled functions are kept.
	maxPrograms = 256

	// compileTime is how long a text may take to be read. The parser cannot be interrupted, and takes exponential time for
	// arrow functions in the default parameters of arrow functions.
	compileTime = 2 * time.Second
)

// programs compiles texts, and keeps what became of them. A text is read once, however many ask for it; one whose reading
// does not end is not begun again.
type programs struct {
	mu     sync.Mutex
	byText map[string]*program
}

// program is a text and what became of it, once read is closed.
type program struct {
	read chan struct{}
	code *goja.Program
	err  error // an *api.Error
}

// of answers the compiled function, or the CodeNoValidProcessor that text deserves.
func (ps *programs) of(text string) (*goja.Program, error) {
	p := ps.get(text)
	select {
	case <-p.read:
		return p.code, p.err
	default:
	}
	timer := time.NewTimer(compileTime)
	defer timer.Stop()
	select {
	case <-p.read:
		return p.code, p.err
	case <-timer.C:
		return nil, api.Errorf(api.CodeNoValidProcessor, "the inline function cannot be read within %d ms; nest less in it",
			compileTime.Milliseconds())
	}
}

func (ps *programs) get(text string) *program {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p, ok := ps.byText[text]; ok {
		return p
	}
	for other, p := range ps.byText {
		if len(ps.byText) < maxPrograms {
			break
		}
		select {
		case <-p.read: // any one; those that are in use stay with their users
			delete(ps.byText, other)
		default:
		}
	}
	p := &program{read: make(chan struct{})}
	ps.byText[text] = p
	go func() {
		defer close(p.read)
		p.code, p.err = compile(text)
	}()
	return p
}

// prefix makes a text an expression wherever it is one function, and stands on a line of its own, so that positions are
// those in the text, one line further down.
const prefix = "_ =\n"

// compile reads text; nothing of it runs.
func compile(text string) (code *goja.Program, err error) {
	defer func() {
		if v := recover(); v != nil {
			code, err = nil, api.Errorf(api.CodeNoValidProcessor, "the inline function cannot be read")
		}
	}()
	// Without source maps: the parser would read the file that a comment names.
	tree, err := parser.ParseFile(nil, "", prefix+text, 0, parser.WithDisableSourceMaps)
	if err != nil {
		return nil, malformed(text, err)
	}
	if len(tree.Body) != 1 {
		return nil, notFunction()
	}
	statement, ok := tree.Body[0].(*ast.ExpressionStatement)
	if !ok {
		return nil, notFunction()
	}
	assignment, ok := statement.Expression.(*ast.AssignExpression)
	if !ok {
		return nil, notFunction()
	}
	switch f := assignment.Right.(type) {
	case *ast.ArrowFunctionLiteral:
	case *ast.FunctionLiteral:
		if f.Generator {
			return nil, api.Errorf(api.CodeNoValidProcessor, "the inline function is not to be a generator")
		}
	default:
		return nil, notFunction()
	}
	statement.Expression = assignment.Right // the function itself, without the name that an assignment would give it
	if code, err = goja.CompileAST(tree, false); err != nil {
		return nil, malformed(text, err)
	}
	return code, nil
}

func notFunction() error {
	return api.Errorf(api.CodeNoValidProcessor,
		"inline is the text of one JavaScript function expression, as (log, done) => done(null, log.body)")
}

// malformed tells what is wrong with text, and where in it.
func malformed(text string, err error) error {
	var list parser.ErrorList
	var syntax *goja.CompilerSyntaxError
	var reference *goja.CompilerReferenceError
	switch {
	case errors.As(err, &list) && len(list) > 0:
		return syntaxError(text, list[0].Position, list[0].Message)
	case errors.As(err, &syntax) && syntax.File != nil:
		return syntaxError(text, syntax.File.Position(syntax.Offset), syntax.Message)
	case errors.As(err, &reference) && reference.File != nil:
		return syntaxError(text, reference.File.Position(reference.Offset), reference.Message)
	}
	return api.Errorf(api.CodeNoValidProcessor, "the inline function cannot be read: %s", plain(err.Error()))
}

// syntaxError tells a place in text as its author counts: lines and characters from 1.
func syntaxError(text string, at file.Position, message string) error {
	line := max(1, at.Line-strings.Count(prefix, "\n"))
	column := at.Column
	if start, ok := lineStart(text, line); ok {
		end := min(start+max(0, column-1), len(text))
		column = utf8.RuneCountInString(text[start:end]) + 1
	}
	return api.Errorf(api.CodeNoValidProcessor, "syntax error in the inline function at line %d, column %d: %s", line, column,
		plain(message))
}

// lineStart is where line n of text begins; lines end as in JavaScript.
func lineStart(text string, n int) (int, bool) {
	start := 0
	for ; n > 1; n-- {
		end := strings.IndexAny(text[start:], "\n\r\u2028\u2029")
		if end < 0 {
			return 0, false
		}
		end += start
		_, size := utf8.DecodeRuneInString(text[end:])
		if strings.HasPrefix(text[end:], "\r\n") {
			size = 2
		}
		start = end + size
	}
	return start, true
}

// refuseText keeps functions from compiling text at run time (eval, Function): that could not be interrupted, could end
// the server, and could read files, as source maps. It is a parser.Option, whose parameter has no name outside.
func refuseText[T any](*T) { panic(textRefused) }

var (
	noText      parser.Option = refuseText
	textRefused               = jsString("EvalError: inline functions cannot compile text")
)

func jsString(s string) goja.Value {
	units := make([]uint16, 0, len(s))
	for _, c := range []byte(s) {
		units = append(units, uint16(c))
	}
	return goja.StringFromUTF16(units)
}
