"""Tasks, channels, scopes: the actor of a call, the run, the supervisor. On anyio alone."""
