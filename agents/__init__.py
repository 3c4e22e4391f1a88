"""The Faust application and its three loops."""
