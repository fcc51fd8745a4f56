"""What kind of board this is, and what its sensors say."""
