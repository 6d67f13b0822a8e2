"""Generation behind a page and an API: jobs, uploads, streams."""
