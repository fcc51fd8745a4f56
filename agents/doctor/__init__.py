"""What keeps a board from working, and what to install or run: `edgesched agent doctor`."""
