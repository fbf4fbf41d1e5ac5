package volumetest_test

import (
	"testing"

	"weedd/volume"
	"weedd/volume/volumetest"
)

func TestBlobsInMemory(t *testing.T) {
	t.Parallel()
	volumetest.Run(t, func(*testing.T) (volumetest.Store, volume.ID) { return volumetest.NewBlobs(7), 7 })
}
