"""Pure decisions: nothing but values in and values out."""
