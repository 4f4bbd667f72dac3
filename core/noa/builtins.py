"""The plugin that noa itself is: everything built in, through the same hooks as anybody's."""
