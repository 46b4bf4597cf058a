"""Graph in, new graph out. A pass is a name, its options as fields, and one method; it takes numbers, not chips."""
