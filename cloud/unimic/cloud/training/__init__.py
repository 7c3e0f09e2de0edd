"""Training and export of every model that the project ships."""
