"""The commands of the command line, a family a file; `headwater.cli` assembles them."""
