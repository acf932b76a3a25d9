"""What the contract suite must know of each source to spoil its pages: one file a source, one `CASE` each."""
