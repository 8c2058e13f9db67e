"""Stand-in for MindSpore where a process needs nothing of it: importing it takes no seconds."""
