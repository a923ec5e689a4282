"""The only importer of ``llama_cpp``: one file for each C object, and the backend over them."""
