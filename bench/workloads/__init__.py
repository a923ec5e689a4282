"""What is measured: one module for each place where it is measured."""
