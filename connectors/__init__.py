"""How crowdsync reaches the outside world: identity providers, Crowd, and its own database."""
