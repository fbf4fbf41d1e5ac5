package probe

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"weedd/volume"
)

// register is a file to porcupine: a write sets its value, 0 after a delete, and a
// read gives it. A write whose outcome is not known has no end, so that it may take
// effect at any time: after all reads, too, which is to say never.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, in, out any) (bool, any) {
		if o := in.(op); o.kind != get && o.kind != lastGet {
			return true, o.value
		}
		return state == out, state
	},
	DescribeOperation: func(in, out any) string {
		o := in.(op)
		return fmt.Sprintf("%s at %s: value %d, %s to %s, %v", o.kind, o.at, out, o.begin.Round(time.Millisecond), o.end.Round(time.Millisecond), o.err)
	},
}

// checkFor bounds the search in one file's history; those of a probe are short.
const checkFor = 10 * time.Second

// judge fills in the report.
func (p *prober) judge(r *Report) {
	r.sum(p.ops)
	files := map[volume.FileID][]op{}
	for _, o := range p.ops {
		switch {
		case errors.Is(o.err, errWrong) || o.kind == lastGet && o.err != nil:
			r.wrong("%s of %s at %s: %v", o.kind, o.id, o.at, o.err)
		case o.id.Key != 0:
			files[o.id] = append(files[o.id], o)
		}
	}
	r.Files = len(files)
	for id, ops := range files {
		creators := slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return o.kind != submit && o.kind != assign })
		if len(creators) > 1 {
			r.wrong("file id %s was given out %d times", id, len(creators))
			continue
		}
		if !linear(ops) {
			r.wrong("file %s: no order of its requests explains what they were answered:%s", id, describe(ops))
		}
	}
}

func linear(ops []op) bool {
	var history []porcupine.Operation
	for i, o := range ops {
		reads := o.kind == get || o.kind == lastGet
		if reads && o.err != nil {
			continue // it says nothing
		}
		end := int64(o.end)
		if o.err != nil {
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{ClientId: i, Input: o, Call: int64(o.begin), Output: o.value, Return: end})
	}
	return porcupine.CheckOperationsTimeout(register, history, checkFor) != porcupine.Illegal
}

func describe(ops []op) (text string) {
	slices.SortFunc(ops, func(a, b op) int { return int(a.begin - b.begin) })
	for _, o := range ops {
		text += "\n    " + register.DescribeOperation(o, o.value)
	}
	return text
}
