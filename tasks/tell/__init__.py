"""What people are told: the plan, the question, the report, the events."""
