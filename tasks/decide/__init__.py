"""What is to be done: pure functions of tables and a policy. No Prefect, no network, no store, no clock."""
