"""Starting a run from a source, beside the same run from scratch, and what that brought."""
