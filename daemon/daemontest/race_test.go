//go:build race

package daemontest_test

func init() { raceDetector = true }
