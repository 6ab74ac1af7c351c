"""The public benchmarks of spatial reasoning, from the user's own copies."""
