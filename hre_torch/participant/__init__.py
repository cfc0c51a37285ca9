"""What a data owner runs: session, what it sends, how it resumes, its connections."""
