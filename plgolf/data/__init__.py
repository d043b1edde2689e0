"""Token shards, the batches cut from them, and the bytes their tokens stand for."""
