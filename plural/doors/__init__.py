"""The commands, one file for each group. Each prints for people, or one JSON object a line with --json."""
