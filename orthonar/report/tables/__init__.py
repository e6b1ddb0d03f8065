"""Tables, from run records to text."""
