"""The bench: servers, scenarios, results. `bench/run` is the command."""
