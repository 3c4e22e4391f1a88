"""What is measured, and against what; each module is one measurement and runs by itself."""
