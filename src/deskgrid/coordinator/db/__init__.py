"""What must last: tables, the queries, the one thread that writes, and what is forgotten when."""
