"""What a human loop is about: its input read, its template, its output."""
