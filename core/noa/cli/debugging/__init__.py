"""The debugger in a terminal; and runs for any debugger: begun here, or attached to."""
