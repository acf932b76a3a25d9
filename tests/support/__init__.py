"""What tests of several files share: builders, worlds, models, servers and clients. No test imports another."""
