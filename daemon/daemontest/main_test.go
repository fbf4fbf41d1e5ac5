package daemontest_test

import (
	"testing"

	"go.uber.org/goleak"
)

// raceDetector is whether it watches this run.
var raceDetector bool

// memberlist does not wait for its last probe, which ends by itself at the
// probe's deadline.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
