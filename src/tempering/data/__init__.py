"""Data: typed records, disjoint parts, role views, chat formatting and loss masks, importers."""
