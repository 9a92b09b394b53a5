"""Economics: tables in, tables out. Breaks, survival, prices."""
