"""`ossh setup`: the plan for one host, and the files that it writes. Uses `doctor` and below."""
