package erasure

// geometry says where the bytes of .dat are. It is cut into rows of blocks, block
// k of a row being in shard k: first as many rows of large blocks as can be
// filled, then rows of small ones, the last filled up with zeros.
type geometry struct {
	data         int64 // number of data shards
	size         int64 // of .dat
	length       int64 // of each shard
	rows         int64 // of large blocks
	large, small int64 // bytes of a block
}

// layout is the geometry of a .dat of size bytes.
func layout(data, size, large, small int64) geometry {
	g := geometry{data: data, size: size, large: large, small: small, rows: size / (data * large)}
	rest := size - g.rows*data*large
	g.length = g.rows*large + (rest+data*small-1)/(data*small)*small
	return g
}

// layoutOf is the geometry of a volume whose size was not noted. A shard whose
// length is a multiple of a large block had small rows at its end: SeaweedFS
// guesses so, too.
func layoutOf(data, length, large, small int64) geometry {
	g := geometry{data: data, size: data * length, length: length, large: large, small: small}
	if length > 0 {
		g.rows = (length - 1) / large
	}
	return g
}

// locate says which shard has the byte at off, and where, and how many of those
// that follow it are there too.
func (g geometry) locate(off int64) (shard int, at, left int64) {
	size, front := g.large, int64(0)
	if rows := g.rows * g.data * g.large; off >= rows {
		off, size, front = off-rows, g.small, g.rows*g.large
	}
	block, in := off/size, off%size
	return int(block % g.data), front + block/g.data*size + in, size - in
}

// ShardLength is the length of the shards of a .dat of size bytes.
func ShardLength(data int, size int64) int64 {
	return layout(int64(data), size, largeBlock, smallBlock).length
}
