"""What can be seen of runs: observers of events, progress."""
