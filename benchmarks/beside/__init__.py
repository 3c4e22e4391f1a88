"""What imagepipe is measured against: other ways to do the same, or a part of it."""
