"""A project kept whole: checked to the last byte, backed up and restored, its old weights let go."""
