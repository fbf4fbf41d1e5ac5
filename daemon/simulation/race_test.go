//go:build race

package simulation

import "time"

// usual is how long TestSeeds runs when nothing else is said. The race detector
// finds nothing here, where one goroutine does everything, and takes its time.
const usual = 5 * time.Second
