"""How a comparison and a decision look: words, Markdown, HTML and JUnit. Pure: knows records, no disk and no model."""
