"""A company to try crowdsync on: an emulated Crowd, identity providers, and generated people."""
