"""How people and machines reach the flows: the command line, the deployments, the sandbox."""
