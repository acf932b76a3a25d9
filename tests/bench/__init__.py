"""The bench: each stage of the road beside the least that the same work can cost, measured in the same run.

`python -m tests.bench --size small|large`. Nothing is emulated in process: Crowd, the SCIM server, Prefect's
server, the program and the floors are a process each. It measures and prints, and never asserts a time.
"""
