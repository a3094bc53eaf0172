"""What must not happen, and who decides: policies, guard, moderation, review."""
