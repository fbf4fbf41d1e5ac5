//go:build !race

package simulation

import "time"

// usual is how long TestSeeds runs when nothing else is said.
const usual = 30 * time.Second
