"""What was found, in the formats of annotation tools: pure functions from masks to annotations."""
