"""Images to shards, the order of an epoch, and the stream of batches."""
