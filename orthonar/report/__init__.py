"""From records to what readers see: statistics, published numbers, tables, figures."""
