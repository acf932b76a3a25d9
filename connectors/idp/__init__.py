"""One file per identity provider, and the registry of their names."""
