"""What is done: agreement, the right to write, the plan carried out through the journal, links by hand."""
